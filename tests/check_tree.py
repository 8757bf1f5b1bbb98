"""Rules of the tree that no compiler checks. Prints each breach and exits 1 if there is any.

- an include goes to the own layer or a lower one (base < io < quant < ops; text, vision and hub on base; model < cuda < engine < eval < apps)
- include/hlwq is self-contained: standard headers and itself
- no file over 800 lines
- no path of somebody's machine
- every GTEST_SKIP says why
- the formatting of .clang-format, where clang-format is installed
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What each layer may include besides itself.
LAYERS = {
    "base": set(),
    "io": {"base"},
    "quant": {"base", "io"},
    "ops": {"base", "io", "quant"},
    "text": {"base"},
    "vision": {"base"},
    "hub": {"base"},
    "model": {"base", "io", "quant", "ops", "text", "vision"},
    "cuda": {"base", "io", "quant", "ops", "text", "vision", "model"},
    "engine": {"base", "io", "quant", "ops", "text", "vision", "model", "cuda"},
    "eval": {"base", "io", "quant", "ops", "text", "vision", "model", "cuda", "engine"},
}
CODE = {".h", ".hpp", ".cpp", ".cc", ".cu", ".cuh"}
SCRIPTS = {".py", ".sh", ".cmake", ".txt", ".md"}
MAX_LINES = 800
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|Users|root|work|mnt)/[\w.-]+")
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.M)


def tracked_files():
    """What git tracks or would track; in an unpacked archive, everything outside build directories."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.splitlines()]
    else:
        hidden = re.compile(r"^(build.*|\.git|\.venv|\.cache)$")
        paths = [p for p in ROOT.rglob("*") if not any(hidden.match(part) for part in p.relative_to(ROOT).parts)]
    return [p for p in paths if p.is_file() and not p.is_symlink()]


def include_problems(path, text):
    relative = path.relative_to(ROOT)
    if relative.parts[:2] == ("include", "hlwq"):
        for bracket, name in INCLUDE.findall(text):
            if bracket == '"' and not name.startswith("hlwq/"):
                yield f"{relative}: a public header includes {name}"
        return
    if relative.parts[0] != "src":
        return
    layer = relative.parts[1]
    if layer not in LAYERS:
        yield f"{relative}: {layer} is no known layer; name it and what it may include in tests/check_tree.py"
        return
    for bracket, name in INCLUDE.findall(text):
        if bracket == "<":
            continue
        target = name.split("/")[0]
        if target == "hlwq" or target == layer:
            continue
        if target not in LAYERS[layer]:
            yield f"{relative}: {layer} must not include {name}"
        elif not (ROOT / "src" / name).is_file():
            yield f"{relative}: includes {name}, which is not there"


def text_problems(path, text):
    relative = path.relative_to(ROOT)
    lines = text.count("\n") + (not text.endswith("\n"))
    is_code = path.suffix in CODE | {".py", ".sh", ".cmake"} or text.startswith("#!")
    if is_code and lines > MAX_LINES:
        yield f"{relative}: {lines} lines, {MAX_LINES} at most"
    for match in MACHINE_PATH.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield f"{relative}:{line}: a path of one machine: {match.group()}"
    if path.suffix in CODE and re.search(r"GTEST_SKIP\(\)\s*;", text):
        yield f"{relative}: GTEST_SKIP() without a reason"


def format_problems(paths):
    tool = shutil.which("clang-format")
    if tool is None:
        print("note: formatting was not checked: there is no clang-format")
        return
    for path in paths:
        run = subprocess.run([tool, "--dry-run", "-Werror", str(path)], capture_output=True, text=True)
        if run.returncode != 0:
            yield f"{path.relative_to(ROOT)}: not formatted (clang-format -i)"


def main():
    problems, code = [], []
    for path in tracked_files():
        if path.suffix not in CODE | SCRIPTS and path.name not in ("quickstart", "test", "run"):
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix in CODE:
            code.append(path)
            problems += include_problems(path, text)
        problems += text_problems(path, text)
    problems += format_problems(code)
    for problem in problems:
        print(problem)
    print(f"{len(code)} C++ files checked, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
