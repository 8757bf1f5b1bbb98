#!/usr/bin/env python3
"""Decodes a checkpoint of `hlwq quantize --layout published` by the published formula, in numpy, and judges it.

  check_published_layout.py SOURCE CHECKPOINT [--report REPORT.json] [--decoded DECODED.safetensors] [--package DIR]

For every X__packed: codes are unpacked from the MSB-first stream, looked up in the 100-iteration table that the
published decoders compute, scaled by 1/sqrt(128), transformed and multiplied by the norms. Then
  * the error against the SOURCE weights (a directory of safetensors) must be near the width's Gaussian error;
  * with --report (what `hlwq quantize --json` printed) each tensor's error must be the reported one to 0.1 %, so
    that our decoder and this formula read the same weights;
  * with --decoded (our decoder's output) values must agree to float rounding;
  * with --package (the unpacked PyPI package, whose 5-bit unpacker needs torch) its unpacker must give the same codes.
Needs numpy, scipy and safetensors. Exits with 1 on any disagreement.
"""

import argparse
import importlib.util
import json
import pathlib
import sys

import numpy as np
from safetensors import safe_open
from safetensors_files import Weights
from scipy.linalg import hadamard as sylvester
from scipy.stats import norm as normal

BLOCK = 128


def table(bits, finite):
    n = 1 << bits
    real = np.float32 if finite else np.float64
    b = np.linspace(-4, 4, n + 1).astype(real)
    if not finite:
        b[0], b[-1] = -np.inf, np.inf
    for _ in range(100):
        lo, hi = b[:-1].astype(np.float64), b[1:].astype(np.float64)
        c = ((normal.pdf(lo) - normal.pdf(hi)) / (normal.cdf(hi) - normal.cdf(lo))).astype(real)
        b[1:-1] = (c[1:] + c[:-1]) / 2
    return c.astype(np.float32)


def gaussian_error(c):
    """Of nearest-centroid coding of N(0,1), on a million quantiles."""
    x = normal.ppf((np.arange(1_000_000) + 0.5) / 1e6)
    c = c.astype(np.float64)
    return float(((x - c[np.searchsorted((c[1:] + c[:-1]) / 2, x)]) ** 2).mean())


def unpack(packed, bits, total):
    stream = np.unpackbits(packed)[: total * bits].reshape(total, bits)
    return stream.astype(np.uint8) @ (1 << np.arange(bits - 1, -1, -1)).astype(np.uint8)


def load_unpacker(package):
    spec = importlib.util.spec_from_file_location("hf_integration", pathlib.Path(package) / "hf_integration.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import torch

    return lambda packed, total: module._unpack_5bit(torch.from_numpy(packed.copy()), total).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("--report")
    parser.add_argument("--decoded")
    parser.add_argument("--package")
    args = parser.parse_args()

    source, checkpoint = Weights(args.source), Weights(args.checkpoint)
    config = json.loads((args.checkpoint / "hlwq_config.json").read_text())
    finite = config.get("codebook", "published-a") == "published-a"
    reported = {}
    if args.report:
        reported = {t["name"]: t["mse"] for t in json.loads(pathlib.Path(args.report).read_text())["tensors"]}
    decoded = safe_open(args.decoded, "np") if args.decoded else None
    unpacker = load_unpacker(args.package) if args.package else None
    h = sylvester(BLOCK).astype(np.float32)
    failures = checked = 0
    sums = {}
    for packed_name in sorted(n for n in checkpoint.at if n.endswith("__packed")):
        name = packed_name.removesuffix("__packed")
        rows, blocks, block, total, cols = (int(v) for v in checkpoint.raw(name + "__meta"))
        packed, norms = checkpoint.raw(packed_name), checkpoint.raw(name + "__norms")
        bits = packed.size * 8 // total
        problems = []
        if block != BLOCK or total != rows * blocks * BLOCK or norms.shape != (rows, blocks):
            problems.append("meta does not fit")
        codes = unpack(packed, bits, total)
        if unpacker and bits == 5 and not np.array_equal(codes, unpacker(packed, total)):
            problems.append("the package unpacks other codes")
        values = table(bits, finite)[codes].reshape(-1, BLOCK)
        w = (values @ h / BLOCK * norms.reshape(-1, 1).astype(np.float32)).reshape(rows, blocks * BLOCK)[:, :cols]
        truth = source.floats(name)
        error = float(((w - truth).astype(np.float64) ** 2).sum() / (truth.astype(np.float64) ** 2).sum())
        sums.setdefault(bits, []).append((error, truth.size))
        if error > 2 * gaussian_error(table(bits, finite)):
            problems.append(f"relative error {error:.6f} is no {bits}-bit error")
        if name in reported and abs(error / reported[name] - 1) > 1e-3:
            problems.append(f"relative error {error:.8f}, reported {reported[name]:.8f}")
        if args.report and name not in reported:
            problems.append("not in the report")
        if decoded is not None and np.abs(decoded.get_tensor(name) - w).max() > 1e-4 * float(norms.max()) / np.sqrt(BLOCK):
            problems.append("our decoder reads other values")
        checked += 1
        if problems:
            failures += 1
            print(f"FAIL {name}: {'; '.join(problems)}")
    for bits, group in sorted(sums.items()):
        mean = sum(e * n for e, n in group) / sum(n for _, n in group)
        print(f"Q{bits}: {len(group)} tensors, relative squared error {mean:.6f}")
    print(f"{checked} tensors decoded by the published formula, {failures} wrong")
    return 1 if failures or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
