#!/usr/bin/env python3
"""Checkpoints in the published formats, made from any model by the published formulas, and what they decode to.

  published_formats.py SOURCE OUT --format F1..F6 [--table a|b]    SOURCE: a directory of safetensors
  published_formats.py --oracle PACKAGE                            rewrites published_oracle.json

Blocks of 128 along the input, zero-padded; x = block / norm, rotated by the orthonormal Hadamard matrix, times
sqrt(128); the nearest level's index is the code. Table "a" has its outer ends at +-4 (single precision), "b" at
infinity. F1: nibbles by half blocks up to 4 bits, else bytes; F2: 5 bits LSB first; F3: bytes and the unscaled table;
F4: 5 bits MSB first under dotted names; F5: the same, dots as '__', in PQ5/ beside bf16.safetensors; F6: bytes, no
table.

PACKAGE is the unpacked wheel polarquant 0.5.0 (PyPI, Apache-2.0; needs torch and scipy): its own functions make the
vectors of published_oracle.json, which tests/cli/test_published.py holds this script against. The script itself needs
numpy and safetensors.
"""

import argparse
import importlib.util
import json
import math
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from safetensors_files import Weights

BLOCK = 128
HERE = Path(__file__).parent
# As the published assignment chooses by name; what matches none stays.
BITS = {"embed": 5, "lm_head": 6, "q_proj": 5, "k_proj": 5, "v_proj": 5, "o_proj": 6, "gate_proj": 3, "up_proj": 3, "down_proj": 4}


def table(bits, variant):
    n = 1 << bits
    real = np.float32 if variant == "a" else np.float64
    ends = 4.0 if variant == "a" else math.inf
    pdf = lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    cdf = lambda x: math.erfc(-x / math.sqrt(2)) / 2
    b = np.linspace(-4, 4, n + 1).astype(real)
    b[0], b[-1] = -ends, ends
    c = np.zeros(n, real)
    for _ in range(100):
        for i in range(n):
            lo, hi = float(b[i]), float(b[i + 1])
            # The same mass, taken from the tail where it is exact.
            mass = cdf(hi) - cdf(lo) if lo < 0 else cdf(-lo) - cdf(-hi)
            c[i] = (pdf(lo) - pdf(hi)) / mass
        b[1:-1] = (c[1:] + c[:-1]) / 2
    return c.astype(np.float32)


def hadamard(n=BLOCK):
    h = np.ones((1, 1))
    while h.shape[0] < n:
        h = np.block([[h, h], [h, -h]])
    return h / math.sqrt(n)


def encode(w, bits, ct):
    """codes [out, padded], norms F16 [out, blocks]."""
    rows, cols = w.shape
    blocks = -(-cols // BLOCK)
    x = np.zeros((rows, blocks * BLOCK))
    x[:, :cols] = w
    x = x.reshape(rows, blocks, BLOCK)
    norms = np.maximum(np.linalg.norm(x, axis=2), 1e-10)
    u = x / norms[..., None] @ hadamard() * math.sqrt(BLOCK)
    mid = (ct[1:].astype(float) + ct[:-1]) / 2
    return np.searchsorted(mid, u).astype(np.uint8).reshape(rows, -1), norms.astype(np.float16)


def decode(codes, norms, ct):
    """Every step in double precision: what the published formula says before anything is rounded."""
    rows, blocks = norms.shape
    values = ct.astype(np.float64)[codes].reshape(rows, blocks, BLOCK) / math.sqrt(BLOCK)
    return (values @ hadamard() * norms.astype(np.float64)[..., None]).reshape(rows, -1)


def half_blocks(codes):
    c = codes.reshape(codes.shape[0], -1, 2, BLOCK // 2)
    return (c[:, :, 1] << 4 | c[:, :, 0]).reshape(codes.shape[0], -1)


def lsb_first(codes, bits=5):
    stream = (codes[..., None] >> np.arange(bits) & 1).astype(np.uint8).reshape(codes.shape[0], -1)
    return np.packbits(stream, axis=1, bitorder="little")


def msb_first(codes, bits):
    return np.packbits((codes.reshape(-1, 1) >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8).reshape(-1))


def bits_of(name):
    found = [bits for part, bits in BITS.items() if part in name]
    return found[0] if found and "norm" not in name else None


def make(source, out, kind, variant):
    """Writes a checkpoint; returns {weight: values in double precision}."""
    source, out = Path(source), Path(out)
    out.mkdir(parents=True)
    for p in source.iterdir():
        if p.suffix in (".json", ".jinja") and not p.name.startswith("model.safetensors") and p.name != "golden.json":
            shutil.copyfile(p, out / p.name)
    weights, tables = Weights(source), {}
    coded, plain, exact, layers = {}, {}, {}, {}
    for name in sorted(weights.at):
        w = weights.floats(name)
        bits = bits_of(name) if w.ndim == 2 else None
        if bits is None:
            plain[name] = w.astype(np.float16) if kind in ("F1", "F2", "F3") else w
            continue
        bits = {"F2": 5, "F3": 5, "F4": 5, "F5": 5}.get(kind, bits)
        ct = tables.setdefault(bits, table(bits, variant))
        codes, norms = encode(w, bits, ct)
        rows, cols = w.shape
        exact[name] = decode(codes, norms, ct)[:, :cols]
        prefix = name.removesuffix(".weight")
        bare = prefix.replace(".", "__")
        meta = np.array([rows, norms.shape[1], BLOCK, codes.size, cols], np.int64)
        if kind in ("F1", "F2", "F3"):
            layers[prefix] = {"in_features": cols, "out_features": rows, "bits": bits, "block_size": BLOCK}
            coded[prefix + ".norms"] = norms
            packed = half_blocks(codes) if kind == "F1" and bits <= 4 else lsb_first(codes) if kind == "F2" else codes.view(np.int8)
            coded[prefix + ".codes"] = packed
            if kind == "F3":
                coded[prefix + ".ct"] = ct
            else:
                coded[prefix + ".ct_scaled"] = ct / np.float32(math.sqrt(BLOCK))
        elif kind == "F4":
            coded |= {name + "__packed": msb_first(codes, 5), name + "__norms": norms, name + "__meta": meta}
        elif kind == "F5":
            coded |= {bare + "__packed": msb_first(codes, 5), bare + "__norms": norms, bare + "__meta": meta[:4]}
        else:
            coded |= {bare + "__codes": codes.view(np.int8), bare + "__norms": norms}
    if kind == "F5":
        (out / "PQ5").mkdir()
        save_file(coded, out / "PQ5/codes.safetensors")
        save_file(plain, out / "bf16.safetensors")
    else:
        save_file(coded | plain, out / "model.safetensors")
    formats = {"F1": "polar_engine_v4", "F2": "polar_engine_v5", "F3": "polar_engine_v5", "F4": "hlwq-q5"}
    if kind in formats:
        file = "hlwq_config.json" if kind == "F4" else "polar_config.json"
        (out / file).write_text(json.dumps({"format": formats[kind], "block_size": BLOCK, "layers": layers}))
    return exact


def oracle(package):
    import sys

    import torch

    sys.path.insert(0, str(package))

    def module(name):
        spec = importlib.util.spec_from_file_location(name, Path(package) / "polarengine_vllm" / (name + ".py"))
        m = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(m)
        return m

    utils, packing, quantizer = module("utils"), module("packing"), module("quantizer")
    rng = np.random.default_rng(11)
    w = (rng.standard_normal((2, 160)) * 0.02).astype(np.float32)
    vectors = {"weights": w.tolist(), "widths": {}}
    for bits in (2, 3, 4, 5, 6, 8):
        made = quantizer.PolarQuantizer().quantize_tensor(torch.from_numpy(w), bits)
        codes = made["codes"]
        entry = {
            "codes": codes.numpy().view(np.uint8).tolist(),
            "norms": made["norms"].numpy().view(np.uint16).tolist(),
            "ct": utils.get_centroids(bits).numpy().view(np.uint32).tolist(),
            "ct_scaled": made["ct_scaled"].numpy().view(np.uint32).tolist(),
        }
        if bits <= 4:
            entry["half_blocks"] = packing.pack_codes_half_block(codes).tolist()
        if bits == 5:
            entry["lsb_first"] = packing.pack_codes_q5(codes).tolist()
        vectors["widths"][str(bits)] = entry
    (HERE / "published_oracle.json").write_text(json.dumps(vectors, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--format", choices=["F1", "F2", "F3", "F4", "F5", "F6"])
    parser.add_argument("--table", choices=["a", "b"], default="b")
    parser.add_argument("--oracle", metavar="PACKAGE")
    args = parser.parse_args()
    if args.oracle:
        oracle(args.oracle)
    else:
        make(args.source, args.out, args.format, args.table)


if __name__ == "__main__":
    main()
