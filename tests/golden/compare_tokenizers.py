#!/usr/bin/env python3
"""Compares the C++ tokenizer with the PyPI package `tokenizers` on many generated lines: ids and decoded text.

  compare_tokenizers.py --driver build/tokenize_lines [--lines 100000] [--seed 1] TOKENIZER.json[.xz] ...

Exits 1 at any difference. Needs: pip install tokenizers.
"""
import argparse
import lzma
import pathlib
import subprocess
import sys
import tempfile
import time

import make_tokenizer_goldens
import tokenizer_lines
from tokenizers import Tokenizer

def run_driver(driver, tokenizer, records, special):
    data = b"".join(b"%d\n" % len(r) + r for r in records)
    p = subprocess.run([driver, tokenizer] + ([] if special else ["--no-special"]), input=data, capture_output=True, check=False)
    if p.returncode:
        sys.exit(f"{driver}: {p.stderr.decode()}")
    out, pos, results = p.stdout, 0, []
    for _ in records:
        end = out.index(b"\n", pos)
        ids = [int(x) for x in out[pos:end].split()]
        pos = end + 1
        end = out.index(b"\n", pos)
        n = int(out[pos:end])
        results.append((ids, out[end + 1:end + 1 + n].decode("utf-8")))
        pos = end + 2 + n
    return results, p.stderr.decode().strip()


def compare(driver, path, records, special):
    reference = Tokenizer.from_file(path)
    reference.no_truncation()
    reference.no_padding()
    reference.encode_special_tokens = not special
    ours, figures = run_driver(driver, path, records, special)
    texts = [r.decode("utf-8", "replace") for r in records]
    start = time.perf_counter()
    ids = [reference.encode(t, add_special_tokens=special).ids for t in texts]
    speed = sum(map(len, records)) / 1e6 / (time.perf_counter() - start)
    bad_ids = bad_text = 0
    for (mine, text), expected, source in zip(ours, ids, texts):
        if mine != expected:
            bad_ids += 1
            if bad_ids <= 10:
                at = next((i for i, (a, b) in enumerate(zip(mine, expected)) if a != b), min(len(mine), len(expected)))
                print(f"  ids differ at {at}: {source[:120]!r}\n    ours {mine[at:at + 8]} reference {expected[at:at + 8]}")
        elif text != reference.decode(expected, skip_special_tokens=False):
            bad_text += 1
            if bad_text <= 10:
                print(f"  text differs: {source[:120]!r}\n    ours {text[:80]!r}\n    reference {reference.decode(expected, skip_special_tokens=False)[:80]!r}")
    print(f"{path} special={special}: {len(records)} lines, {sum(map(len, ids))} ids, {bad_ids} lines with other ids, {bad_text} decoded otherwise; "
          f"ours: {figures}; tokenizers: encode {speed:.2f} MB/s", flush=True)
    return bad_ids + bad_text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", required=True)
    parser.add_argument("--lines", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("tokenizers", nargs="+")
    args = parser.parse_args()
    wiki = make_tokenizer_goldens.wiki_lines()
    records = [x.encode() for x in wiki] + list(tokenizer_lines.lines(args.seed, args.lines, wiki))
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        for i, name in enumerate(args.tokenizers):
            path = name
            if name.endswith(".xz"):
                path = f"{scratch}/{i}-tokenizer.json"
                pathlib.Path(path).write_bytes(lzma.open(name).read())
            failures += compare(args.driver, path, records, True)
            failures += compare(args.driver, path, records[::7], False)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
