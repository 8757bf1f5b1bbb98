"""Quality per byte of one model: HLWQ variants beside llama.cpp's K-quants, at equal bytes.

    python bench/quality_frontier.py SOURCE --work DIR --text FILE [--gguf DIR] [--windows 64] [--variants LIST] [--report-only]

SOURCE is an unquantised model (directory or .gguf), the base of every figure. Variants of HLWQ are made in --work and kept there:

    q3 q4 q5 q6          one width for all, the published scalar codes      family "HLWQ"
    q3-l2 ... q6-l2      the same with coupled codebooks                    "HLWQ, 2 lags"
    q4-l2+cal ...        with calibrated rounding (--calibrate)             "..., calibrated"
    4.6bpw[+cal]         widths chosen for that many bits per weight        "HLWQ, allocated", "..., calibrated"

K-quants are those that bench/quality_gguf.py left in --gguf (that step needs llama.cpp; this one needs Python only). Every result goes to
WORK/results.json at once, and what is there with the same number of windows is not measured again: stop and go on as you like. The
report (WORK/report.md, also printed) has all points, and each K-quant against every HLWQ family at its size: log KL is taken as
linear in bits per weight between a family's neighbouring points.
"""

import argparse
import json
import math
import pathlib
import re
import subprocess
import sys

USUAL = "q3,q4,q5,q6,q3-l2,q4-l2,q5-l2,q6-l2,default,default-l2,int4,nf4"
CALIBRATED = "q3-l2+cal,q4-l2+cal,q5-l2+cal,q6-l2+cal,default-l2+cal"
RATES = (3.1, 4.1, 4.5, 5.1, 5.5, 6.1)
ALLOCATED = ",".join(f"{r}bpw{c}" for c in ("", "+cal") for r in RATES)


def run(command):
    print("+", *map(str, command), file=sys.stderr, flush=True)
    if subprocess.run([str(c) for c in command], stdout=sys.stderr).returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}")


def parse(variant, work):
    """(options of hlwq quantize, family) of a variant that is made here; None for int4 and nf4."""
    name, _, calibrated = variant.partition("+")
    if calibrated not in ("", "cal"):
        sys.exit(f"{variant}: what follows + must be cal")
    if name in ("int4", "nf4"):
        return None
    bpw = re.fullmatch(r"([\d.]+)bpw", name)
    options = ["--bpw", bpw[1], "--sensitivity", work / "sensitivity.json"] if bpw else ["--policy", name]
    lags = re.search(r"-l(\d)$", name)
    family = "HLWQ" + (f", {lags[1]} lags" if lags else "")
    if bpw:
        family = "HLWQ, allocated"
    return options, family + (", calibrated" if calibrated else "")


class Frontier:
    def __init__(self, args):
        self.args = args
        self.file = args.work / "results.json"
        self.results = json.loads(self.file.read_text()) if self.file.exists() else {}

    def done(self, name):
        return self.results.get(name, {}).get("windows") == self.args.windows

    def save(self):
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.results, indent=1))
        partial.rename(self.file)

    def make(self, variant):
        """The path or name that hlwq bench --compare takes, and the family."""
        options = parse(variant, self.args.work)
        if options is None:
            return variant, "other"
        target = self.args.work / variant
        if not target.exists():
            calibrate = []
            if variant.endswith("+cal"):
                calibrate = ["--calibrate", self.args.calibrate, "--calibration-tokens", self.args.calibration_tokens]
            run([self.args.hlwq, "quantize", self.args.source, "-o", target, *options[0], *calibrate])
        return target, options[1]

    def k_quants(self):
        for path in sorted(self.args.gguf.iterdir()) if self.args.gguf else []:
            kind = path.name.removesuffix(".gguf")
            if re.fullmatch(r"I?Q\d\w*(-folded)?(-imatrix)?", kind) and (path.is_dir() or path.suffix == ".gguf"):
                family = "K-quants" + (", folded" if "-folded" in kind else "") + (", imatrix" if "-imatrix" in kind else "")
                facts = path.with_name(kind + ".json")
                yield kind, path, family, json.loads(facts.read_text()) if facts.exists() else {}

    def measure(self, jobs):
        """jobs: (name, path, family, facts that the file itself does not tell)."""
        jobs = [job for job in jobs if not self.done(job[0])]
        for begin in range(0, len(jobs), self.args.chunk):
            part = jobs[begin : begin + self.args.chunk]
            out = self.args.work / "compare.json"
            run([self.args.hlwq, "bench", self.args.source, "--compare", ",".join(str(job[1]) for job in part), "--text-file",
                 self.args.text, "--ctx", self.args.ctx, "--windows", self.args.windows, "-o", out])
            report = json.loads(out.read_text())
            for (name, _, family, facts), row in zip(part, report["variants"]):
                row = {k: v for k, v in row.items() if k not in ("name", "family")} | facts
                self.results[name] = {"family": family, **row, "windows": report["windows"], "tokens": report["tokens"],
                                      "base_ppl": report["ppl"]}
                if report["windows"] < self.args.windows:
                    self.results[name]["windows"] = self.args.windows  # the text has no more
            self.save()

    def report(self):
        rows = sorted(self.results.items(), key=lambda item: (item[1]["family"], item[1]["bits_per_weight"]))
        lines = [f"Base: perplexity {rows[0][1]['base_ppl']:.4f}; {rows[0][1]['tokens']} tokens in {self.args.windows} windows of "
                 f"{self.args.ctx}.\n", "| family | variant | MB | bits/weight | mean KL | median KL | p99 KL | top-1 | perplexity |",
                 "|---|---|--:|--:|--:|--:|--:|--:|--:|"]
        for name, r in rows:
            lines.append(f"| {r['family']} | {name} | {r['weight_bytes'] / 1e6:.1f} | {r['bits_per_weight']:.3f} | {r['kl_mean']:.5f} "
                         f"| {r['kl_median']:.5f} | {r['kl_p99']:.4f} | {100 * r['top1']:.2f} % | {r['ppl']:.4f} |")
        families = {}
        for name, r in rows:
            families.setdefault(r["family"], []).append((r["bits_per_weight"], math.log(r["kl_mean"])))
        ours = [f for f in families if f.startswith("HLWQ") and len(families[f]) > 1]
        theirs = [(n, r) for n, r in rows if not r["family"].startswith("HLWQ")]
        if ours and theirs:
            lines += ["\nMean KL of each HLWQ family at the other's bits per weight (interpolated), and the ratio to it: below 1 HLWQ is "
                      "better.\n", "| other | bits/weight | mean KL | " + " | ".join(ours) + " |", "|---|--:|--:|" + "--:|" * len(ours)]
            for name, r in theirs:
                cells = []
                for family in ours:
                    log_kl = interpolated(families[family], r["bits_per_weight"])
                    cells.append("" if log_kl is None else f"{math.exp(log_kl):.5f} ({math.exp(log_kl) / r['kl_mean']:.2f})")
                lines.append(f"| {name} | {r['bits_per_weight']:.3f} | {r['kl_mean']:.5f} | " + " | ".join(cells) + " |")
        if self.args.draw:
            self.draw(rows)
        text = "\n".join(lines) + "\n"
        (self.args.work / "report.md").write_text(text)
        print(text)


    def draw(self, rows):
        series = {}
        for name, r in rows:
            label = name.replace("-folded", "").replace("-imatrix", "").replace("+cal", "")
            series.setdefault(r["family"], []).append([r["bits_per_weight"], r["kl_mean"], label])
        chart = {"title": f"Size and divergence: {self.args.source.name}", "x": "bits per weight",
                 "y": "mean KL divergence, nats per token (log scale)",
                 "series": [{"name": f, "line": f != "other", "points": p} for f, p in series.items()]}
        svg = subprocess.run([self.args.draw], input=json.dumps(chart), stdout=subprocess.PIPE, text=True, check=True).stdout
        (self.args.work / "frontier.svg").write_text(svg)


def interpolated(points, x):
    """Linear between neighbours; beyond the ends along the last two, by half a bit at most."""
    points = sorted(points)
    if not points[0][0] - 0.5 <= x <= points[-1][0] + 0.5:
        return None
    i = next((i for i in range(1, len(points)) if x <= points[i][0]), len(points) - 1)
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--gguf", type=pathlib.Path, help="directory of quality_gguf.py's files")
    parser.add_argument("--hlwq", default="build/hlwq")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--variants", default=USUAL, help="comma-separated; 'usual', 'calibrated' and 'allocated' stand for lists")
    parser.add_argument("--calibrate", default="builtin", help="what --calibrate gets for variants with +cal")
    parser.add_argument("--calibration-tokens", type=int, default=32768)
    parser.add_argument("--chunk", type=int, default=4, help="variants measured in one pass over the base")
    parser.add_argument("--draw", metavar="PROGRAM", help="draw_chart (built with -DHLWQ_BENCH=ON), for WORK/frontier.svg")
    parser.add_argument("--report-only", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    frontier = Frontier(args)
    if not args.report_only:
        lists = {"usual": USUAL, "calibrated": CALIBRATED, "allocated": ALLOCATED}
        names = [name for part in args.variants.split(",") if part for name in lists.get(part, part).split(",")]
        jobs = [(name, *frontier.make(name), {}) for name in names if not frontier.done(name)]
        frontier.measure(list(frontier.k_quants()) + jobs)
    if frontier.results:
        frontier.report()


if __name__ == "__main__":
    main()
