#!/usr/bin/env python3
"""KL divergence and top-1 agreement of key/value cache settings against a BF16 cache of the same model, and how often a
number hidden in a text is found again.

    python bench/kv_quality.py MODEL --text FILE --contexts 512:16,2048:4,8192:2 [--needles 8] -o results.json

One run of `hlwq bench --kld MODEL` per setting and context (tokens:windows); what is in the results file already is not
measured again. Prints Markdown tables.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys


def both(k, v=None):
    bits = f"{k}:{v or k}"
    return ["--kv-full", bits, "--kv-sliding", bits]


def settings(has_sliding, shares):
    """(name, flags) of everything that is compared."""
    off = ["--kv-share", "off"] if shares else []
    out = []
    for b in (4, 3, 2):
        out.append((f"K{b}V{b} everywhere", both(b) + off))
        out.append((f"K{b} alone", both(b, 16) + off))
        out.append((f"V{b} alone", both(16, b) + off))
        for tail in (128, 1024):
            out.append((f"K{b}V{b}, tail {tail}", both(b) + off + ["--kv-tail", str(tail)]))
        if b > 2:
            out.append((f"K8V{b} everywhere", both(8, b) + off))
            out.append((f"K8V{b}, tail 1024, 4 sinks", both(8, b) + off + ["--kv-tail", "1024", "--kv-sinks", "4"]))
        out.append((f"K{b}V{b}, 4 sinks", both(b) + off + ["--kv-sinks", "4"]))
        out.append((f"K{b}V{b}, tail 128, 4 sinks", both(b) + off + ["--kv-tail", "128", "--kv-sinks", "4"]))
        if has_sliding:
            full = ["--kv-full", str(b)]
            out.append((f"full layers K{b}V{b}, sliding BF16", full + off))
            if shares:
                out.append((f"full layers V{b} only, sliding BF16", full))
            out.append((f"full layers V{b} only, sliding BF16, tail 256" if shares
                        else f"full layers K{b}V{b}, sliding BF16, tail 256", full + ["--kv-tail", "256"]))
    if shares:
        out.append(("BF16, V only on full layers", []))
    return out


def run(command, text=None):
    result = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return result.stdout


def needles(args, flags, context):
    """Fraction of hidden five-digit numbers that the model repeats when asked, in texts of about `context` tokens."""
    text = pathlib.Path(args.text).read_text()
    found = 0
    for i in range(args.needles):
        number = random.Random(i).randrange(10000, 100000)
        filler = text[i * 3001 % 100000 :][: int(context * 3.6)]
        at = filler.find("\n", len(filler) * (i + 1) // (args.needles + 1))
        prompt = (f"{filler[:at]}\n The secret code of the vault is {number}. Remember it.\n{filler[at:]}"
                  "\n The secret code of the vault is")  # fmt: skip
        answer = run([args.hlwq, "run", args.model, "--raw", "-p", "-", "-n", "8", "--greedy", *flags], prompt)
        found += str(number) in answer.replace(" ", "").replace(",", "")
    return found / args.needles


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--hlwq", default="build/hlwq")
    parser.add_argument("--text", required=True)
    parser.add_argument("--contexts", default="512:8,2048:2,8192:1")
    parser.add_argument("--needles", type=int, default=0, help="hidden numbers to ask for at each context; 0: none")
    parser.add_argument("--only", default="", help="only settings whose name contains this")
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_args()

    info = json.loads(run([args.hlwq, "info", args.model, "--json"]))
    contexts = [tuple(map(int, c.split(":"))) for c in args.contexts.split(",")]
    listed = settings(info["kv_sliding"] > 0, info["family"] == "gemma4")
    path = pathlib.Path(args.output)
    results = json.loads(path.read_text()) if path.exists() else {}
    for context, windows in contexts:
        for name, flags in [("BF16", []), *listed]:
            if args.only not in name:
                continue
            key = f"{name} @ {context}"
            row = results.setdefault(key, {"name": name, "context": context})
            if name != "BF16" and "kl" not in row:
                r = json.loads(run([args.hlwq, "bench", args.model, "--kld", args.model, "--text-file", args.text, "--ctx",
                                    str(context), "--windows", str(windows), "--json", *flags]))  # fmt: skip
                row |= {"kl": r["kl_mean"], "kl_p99": r["kl_p99"], "top1": r["top1"], "tokens": r["tokens"]}
            if args.needles and "needle" not in row and "alone" not in name and "sinks" not in name:
                row["needle"] = needles(args, flags, context - 64)
            path.write_text(json.dumps(results, indent=1))

    print(f"{pathlib.Path(args.model).name}\n")
    head = [f"{c} tokens: KL | top-1" + (" | needles" if args.needles else "") for c, _ in contexts]
    print("| cache | " + " | ".join(head) + " |\n|---" * 1 + "|---" * (len(contexts) * (3 if args.needles else 2)) + "|")
    for name, _ in [("BF16", []), *listed]:
        cells = []
        for context, _ in contexts:
            row = results.get(f"{name} @ {context}", {})
            cells += [f"{row['kl']:.5f}", f"{100 * row['top1']:.2f} %"] if "kl" in row else ["0", "100 %"] if name == "BF16" else ["", ""]
            if args.needles:
                cells.append(f"{100 * row['needle']:.0f} %" if "needle" in row else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
