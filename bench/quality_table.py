"""Perplexity, KL divergence and top-1 agreement of HLWQ widths beside simpler quantisers, in one run.

    python bench/quality_table.py MODEL --hlwq build/hlwq --text build/assets/wiki.test.raw --windows 32 [--work DIR] [-o FILE]

MODEL is a .gguf file: decoded, it is the base of every figure. The absmax INT4 variant (groups of 128, scale = absmax / 7 in
FP16, levels -7..7, round to nearest; the embedding too) is written as a GGUF of F32. Needs numpy and gguf. Prints a Markdown
table; -o writes JSON.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import gguf
import numpy as np


def hlwq(args, *command):
    run = subprocess.run([args.hlwq, *map(str, command), "--json"], stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"failed: hlwq {' '.join(map(str, command))}")
    return json.loads(run.stdout)


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
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name != "general.architecture" and not field.name.startswith("GGUF."):
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub)
    for tensor in reader.tensors:
        w = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, absmax_int4(w) if w.ndim == 2 else w)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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

    one = ["--lags", 1]  # plain HLWQ, as published but for its tables and norms
    published = ["--codebook", "published-b", "--norm", "published"]
    variants = [
        ("HLWQ Q8", ["--bits", 8, *one]),
        ("HLWQ Q6", ["--bits", 6, *one]),
        ("HLWQ default (Q5, embedding Q6)", one),
        ("HLWQ Q5", ["--bits", 5, *one]),
        ("Q5, published codebook and norms", ["--bits", 5, *published]),
        ("HLWQ Q4", ["--bits", 4, *one]),
        ("absmax INT4, groups of 128", None),
        ("HLWQ Q3", ["--bits", 3, *one]),
    ]
    rows = []
    for name, flags in variants:
        target = work / "variant"
        if flags is None:
            target = work / "int4.gguf"
            write_int4(args.model, target)
        else:
            hlwq(args, "quantize", args.model, "-o", target, "--force", *flags)
        result = hlwq(args, "bench", target, "--kld", args.model, "--text-file", args.text, "--ctx", args.ctx,
                      "--windows", args.windows)
        if flags is None:
            result["bits_per_weight"] = 4 + 16 / 128
        rows.append({"name": name, **result})
        print(f"{name}: KL {result['kl_mean']:.5f}", file=sys.stderr, flush=True)
    print(f"\nbase: decoded to F32, perplexity {rows[0]['base_ppl']:.4f}; {rows[0]['tokens']} tokens in {args.windows} windows of {args.ctx}\n")
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
