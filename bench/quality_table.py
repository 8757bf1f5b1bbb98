"""Perplexity, KL divergence and top-1 agreement of HLWQ widths beside simpler quantisers, in one run.

    python bench/quality_table.py MODEL --hlwq build/hlwq --text build/assets/wiki.test.raw --windows 32 [--work DIR] [-o FILE]

MODEL is a .gguf file or a directory. It is written once as plain F32 safetensors: the base of every figure, and what the
absmax INT4 variant (groups of 128, scale = absmax / 7, levels -7..7, round to nearest) is made from. Needs numpy and
safetensors. Prints a Markdown table; -o writes JSON.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file, save_file


def hlwq(args, *command):
    run = subprocess.run([args.hlwq, *map(str, command), "--json"], stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"failed: hlwq {' '.join(map(str, command))}")
    return json.loads(run.stdout)


def is_quantisable(name, array):
    return array.ndim == 2 and name.endswith(".weight") and "norm" not in name and "vision" not in name


def absmax_int4(w, group=128):
    """Rounds [rows, cols] in groups along cols; a shorter last group where cols is no multiple."""
    out = np.empty_like(w)
    for begin in range(0, w.shape[1], group):
        part = w[:, begin : begin + group]
        scale = (np.abs(part).max(axis=1, keepdims=True) / 7).astype(np.float16).astype(np.float32)
        safe = np.where(scale > 0, scale, 1)
        out[:, begin : begin + group] = np.clip(np.rint(part / safe), -7, 7) * scale
    return out


def write_int4(source, target):
    target.mkdir()
    for f in source.iterdir():
        if f.suffix == ".safetensors":
            tensors = {k: absmax_int4(v) if is_quantisable(k, v) else v for k, v in load_file(f).items()}
            save_file(tensors, target / f.name)
        elif f.is_file():
            shutil.copy(f, target / f.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--hlwq", default="build/hlwq")
    parser.add_argument("--text", default="build/assets/wiki.test.raw")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--work", help="directory for the checkpoints (default: a temporary one)")
    parser.add_argument("-o", "--output")
    args = parser.parse_args()
    work = pathlib.Path(args.work or tempfile.mkdtemp(prefix="hlwq-quality-"))
    work.mkdir(parents=True, exist_ok=True)

    keep = work / "keep.json"
    keep.write_text(json.dumps({"default": {"bits": None}}))
    base = work / "f32"
    if not base.exists():
        hlwq(args, "quantize", args.model, "-o", base, "--policy", keep)
    published = ["--codebook", "published-b", "--norm", "published"]
    variants = [
        ("HLWQ Q8", ["--bits", 8]),
        ("HLWQ Q6", ["--bits", 6]),
        ("HLWQ default (Q5, embedding Q6)", []),
        ("HLWQ Q5", ["--bits", 5]),
        ("Q5, published codebook and norms", ["--bits", 5, *published]),
        ("HLWQ Q4", ["--bits", 4]),
        ("absmax INT4, groups of 128", None),
        ("HLWQ Q3", ["--bits", 3]),
    ]
    rows = []
    for name, flags in variants:
        target = work / "variant"
        shutil.rmtree(target, ignore_errors=True)
        if flags is None:
            write_int4(base, target)
        else:
            hlwq(args, "quantize", base, "-o", target, *flags)
        result = hlwq(args, "bench", target, "--kld", base, "--text-file", args.text, "--ctx", args.ctx,
                      "--windows", args.windows)
        if flags is None:
            result["bits_per_weight"] = 4 + 16 / 128
        rows.append({"name": name, **result})
        print(f"{name}: KL {result['kl_mean']:.5f}", file=sys.stderr, flush=True)
        shutil.rmtree(target)
    print(f"\nbase: F32, perplexity {rows[0]['base_ppl']:.4f}; {rows[0]['tokens']} tokens in {args.windows} windows of {args.ctx}\n")
    print("| weights | bits per weight | perplexity | mean KL | median KL | same top token |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['name']} | {r['bits_per_weight']:.3f} | {r['ppl']:.4f} | {r['kl_mean']:.5f} | {r['kl_median']:.5f} "
              f"| {100 * r['top1']:.2f} % |")
    if args.output:
        pathlib.Path(args.output).write_text(json.dumps(rows, indent=1))
    if not args.work:
        shutil.rmtree(work)


main()
