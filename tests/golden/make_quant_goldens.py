"""Writes tests/golden/quant: the codec's oracle, computed in double precision by other means than src/quant.

Needs numpy, scipy and safetensors. Run from anywhere; the output is deterministic.

  codec.safetensors       codebooks (converged, published A and B), and for one small weight matrix, every width and
                          several block sizes: natural codes, native bytes, norms by both rules, decoded values
  published/              a checkpoint in the published layout, dotted names and five meta values
  published-underscored/  the same weights under the other published naming, four meta values, codebook B
"""

import json
import pathlib

import numpy as np
from safetensors.numpy import save_file
from scipy.linalg import hadamard as sylvester
from scipy.optimize import fsolve
from scipy.stats import norm as normal

OUT = pathlib.Path(__file__).parent / "quant"
MARGIN = 1e-6  # no rotated weight lies nearer to a decision boundary, so codes are beyond dispute
ROWS, COLS = 4, 160


def converged(bits):
    """Lloyd-Max of N(0,1): all centroid equations at once, on the positive half, from a high-rate start."""
    half = 1 << (bits - 1)
    start = np.sqrt(3) * normal.ppf(0.5 + (np.arange(half) + 0.5) / (2 * half))

    def residual(c):
        b = np.concatenate([[0], (c[1:] + c[:-1]) / 2, [np.inf]])
        mass = normal.sf(b[:-1]) - normal.sf(b[1:])
        return (normal.pdf(b[:-1]) - normal.pdf(b[1:])) / mass - c

    c = fsolve(residual, start, xtol=1e-13)
    assert np.abs(residual(c)).max() < 1e-10, bits
    return np.concatenate([-c[::-1], c])


def published(bits, finite):
    """The published tables: 100 Lloyd iterations from uniform boundaries on [-4, 4]."""
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


def rotate(w, block):
    """u [rows, blocks, block] and the norms [rows, blocks] of a zero-padded matrix."""
    rows, cols = w.shape
    blocks = -(-cols // block)
    padded = np.zeros((rows, blocks * block))
    padded[:, :cols] = w
    x = padded.reshape(rows, blocks, block)
    n = np.linalg.norm(x, axis=2)
    return x @ sylvester(block) / n[..., None], n


def encode(w, table, block):
    table = table.astype(np.float64)
    u, n = rotate(w, block)
    boundaries = (table[1:] + table[:-1]) / 2
    codes = np.searchsorted(boundaries, u)
    distance = np.abs(u[..., None] - boundaries).min()
    c = table[codes]
    corrected = n * (u * c).sum(2) / (c * c).sum(2)
    return codes.astype(np.uint8), n.astype(np.float16), corrected.astype(np.float16), distance


def decode(codes, norms, table, cols):
    rows, blocks, block = codes.shape
    v = table.astype(np.float64)[codes] @ sylvester(block) / block * norms.astype(np.float64)[..., None]
    return v.reshape(rows, blocks * block)[:, :cols]


def native_bytes(codes, bits):
    """The packed layout of src/quant/layout.h, plane by plane."""
    half = 1 << (bits - 1)
    n = codes.astype(np.int64)
    stored = np.where(n >= half, n - half, half | (half - 1 - n))
    rows, blocks, block = codes.shape
    g = min(block, 128)
    granules = stored.reshape(-1, g)
    widths = {2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1], 8: [8]}[bits]
    parts, shift = [], 0
    for width in widths:
        v = granules >> shift & ((1 << width) - 1)
        shift += width
        if width == 1:
            parts.append(sum(v[:, j::8] << j for j in range(8)))
        else:
            run = g * width // 8
            parts.append(sum(v[:, k * run:(k + 1) * run] << (k * width) for k in range(8 // width)))
    return np.concatenate(parts, axis=1).astype(np.uint8).reshape(rows, -1)


def published_bytes(codes, bits):
    """One MSB-first bit stream of the natural codes."""
    stream = (codes.reshape(-1, 1) >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)
    return np.packbits(stream.reshape(-1))


def weights(rng, rows, cols):
    """Rows of different temper: Gaussian, heavy-tailed, sparse, skewed and small."""
    w = rng.standard_normal((rows, cols))
    w[1 % rows] = rng.standard_t(2, cols)
    w[2 % rows] *= rng.random(cols) < 0.1
    w[2 % rows, ::7] += 0.5
    w[3 % rows] = 1e-3 * (rng.standard_normal(cols) + 2)
    return w.astype(np.float32)


def codec():
    tables = {}
    for bits in range(2, 9):
        tables[f"codebook.converged.q{bits}"] = converged(bits)
        tables[f"codebook.published-a.q{bits}"] = published(bits, True)
        tables[f"codebook.published-b.q{bits}"] = published(bits, False)
    for seed in range(1000):
        w = weights(np.random.default_rng(seed), ROWS, COLS)
        tensors, nearest = {"weights": w}, np.inf
        for bits in range(2, 9):
            table = tables[f"codebook.converged.q{bits}"].astype(np.float32)
            for block in (32, 64, 128, 256, 512):
                codes, plain, corrected, distance = encode(w.astype(np.float64), table, block)
                nearest = min(nearest, distance)
                key = f"q{bits}.b{block}."
                tensors[key + "codes"] = codes.reshape(ROWS, -1)
                tensors[key + "native"] = native_bytes(codes, bits)
                tensors[key + "norms.published"] = plain
                tensors[key + "norms.corrected"] = corrected
                if block in (32, 128):
                    tensors[key + "decoded"] = decode(codes, corrected, table, COLS).astype(np.float32)
        if nearest > MARGIN:
            save_file({**tables, **tensors}, OUT / "codec.safetensors")
            print(f"codec: seed {seed}, nearest boundary {nearest:.2e}")
            return
    raise SystemExit("no seed keeps clear of the boundaries")


def published_checkpoint(name, finite, underscored):
    rng = np.random.default_rng(7)
    directory = OUT / name
    directory.mkdir(parents=True, exist_ok=True)
    shapes = {"model.layers.0.mlp.down_proj.weight": (3, 160, 5), "model.layers.0.mlp.up_proj.weight": (2, 256, 3),
              "model.embed_tokens.weight": (2, 128, 2), "lm_head.weight": (2, 128, 6), "model.layers.0.self_attn.q_proj.weight": (1, 256, 4)}
    tensors, decoded = {}, {}
    for weight, (rows, cols, bits) in shapes.items():
        if underscored:
            cols = -(-cols // 128) * 128  # four meta values do not tell the columns, so these have none to spare
        w = rng.standard_normal((rows, cols))
        table = published(bits, finite)
        codes, plain, _, _ = encode(w, table, 128)
        prefix = weight.removesuffix(".weight").replace(".", "__") if underscored else weight
        blocks = codes.shape[1]
        meta = [rows, blocks, 128, rows * blocks * 128, cols]
        tensors[prefix + "__packed"] = published_bytes(codes, bits)
        tensors[prefix + "__norms"] = plain
        tensors[prefix + "__meta"] = np.array(meta[:4] if underscored else meta, np.int64)
        decoded[weight] = decode(codes, plain, table, cols).astype(np.float32)
    tensors["model.norm.weight"] = np.ones(128, np.float16)
    save_file(tensors, directory / "model.safetensors")
    save_file(decoded, OUT / (name + "-decoded.safetensors"))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}) + "\n")
    config = {"format": "hlwq-q5", "block_size": 128}
    if not finite:
        config["codebook"] = "published-b"
    (directory / ("polar_config.json" if underscored else "hlwq_config.json")).write_text(json.dumps(config) + "\n")


OUT.mkdir(exist_ok=True)
codec()
published_checkpoint("published", finite=True, underscored=False)
published_checkpoint("published-underscored", finite=False, underscored=True)
