#!/usr/bin/env python3
"""How many of the trained nano model's questions about pictures are answered as expected, for each width of the weights and
each setting of the key/value cache.

    python bench/image_questions.py [--hlwq build/hlwq] [--assets build/assets]
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

CACHES = {
    "F32": ["--kv-bits", "32"],
    "BF16": [],
    "BF16, keys stored too": ["--kv-share", "off"],
    "--kv-bits 4": ["--kv-bits", "4"],
    "--kv-bits 3": ["--kv-bits", "3"],
    "--kv-bits 2": ["--kv-bits", "2"],
    "4 bits everywhere, no tail": ["--kv-full", "4", "--kv-sliding", "4"],
    "3 bits everywhere, no tail": ["--kv-full", "3", "--kv-sliding", "3"],
    "2 bits everywhere, no tail": ["--kv-full", "2", "--kv-sliding", "2"],
    "full layers V only at 2 bits, no tail": ["--kv-full", "2"],
}


def right_answers(hlwq, model, golden, flags):
    right = total = 0
    for case in json.loads((golden / "cases.json").read_text()):
        for q in case["questions"]:
            command = [hlwq, "run", model, "--image", golden / case["image"], "-p", q["question"], "--greedy", "-n", "40"]
            answer = subprocess.run([*map(str, command), *flags], stdout=subprocess.PIPE, text=True, check=True).stdout
            right += answer.strip() == q["expected"]
            total += 1
    return right, total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hlwq", default="build/hlwq")
    parser.add_argument("--assets", default="build/assets")
    args = parser.parse_args()
    nano = pathlib.Path(args.assets) / "gemma4-nano"
    with tempfile.TemporaryDirectory() as work:
        models = {"BF16": nano}
        for policy in ("default", "q4", "q3"):
            models[policy] = pathlib.Path(work) / policy
            subprocess.run([args.hlwq, "quantize", nano, "-o", models[policy], "--policy", policy], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        print("| cache | " + " | ".join(f"weights {m}" for m in models) + " |\n|---" + "|---" * len(models) + "|")
        for name, flags in CACHES.items():
            cells = ["{} of {}".format(*right_answers(args.hlwq, m, nano / "golden", flags)) for m in models.values()]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
