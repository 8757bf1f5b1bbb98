"""Builds the wheel, installs it into a clean environment, and runs there what README tells people to type.

Run by ./test with its environment's Python; by hand: .venv/bin/python tests/python/check_wheel.py
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(os.environ.get("HLWQ_ASSETS", ROOT / "build/assets"))

PUBLISHED = """
from polarengine_vllm import PolarQuantModel
model = PolarQuantModel.from_pretrained("model-Q5", kv_cache_nbits=3)
print(model.generate("What is 2 + 3?", max_new_tokens=100))
"""


def readme_lines():
    """The Python of README's section: the indented lines from its first import on."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("### Python", 1)[1]
    code = re.search(r"^    import hlwq\n(?:    .*\n|\n(?=    ))*", section, re.M)
    return re.sub(r"^    ", "", code[0], flags=re.M)


def run(*command, **options):
    print("$", *(str(c) if "\n" not in str(c) else "..." for c in command), flush=True)
    return subprocess.run([str(c) for c in command], check=True, text=True, **options)


def main():
    pip = ["-m", "pip", "--disable-pip-version-check", "-q"]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        # The compiler's name as CMake finds it by itself, so that a compiler cache has the objects of build/.
        compiler = {"CXX": "c++", **os.environ}
        run(sys.executable, *pip, "wheel", "--no-build-isolation", "--no-deps", "-w", place, ROOT, env=compiler)
        (wheel,) = place.glob("hlwq-*.whl")
        venv.create(place / "env", with_pip=True)
        programs = place / "env/bin"
        run(programs / "python", *pip, "install", wheel)
        work = place / "work"
        work.mkdir()
        (work / "model-Q5").symlink_to(ASSETS / "gemma4-nano-q5")
        shutil.copyfile(ASSETS / "gemma4-nano/golden/image_02.png", work / "photo.jpg")
        settings = {"cwd": work, "env": {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}}
        for code in (readme_lines(), PUBLISHED):
            run(programs / "python", "-c", code, **settings)
        run(programs / "hlwq", "run", "model-Q5", "-p", "What is 2 + 3?", "--greedy", **settings)
        chat = [programs / "polarquant", "chat", "model-Q5", "--nbits-kv", 3, "--vision", "--no-share"]
        answer = run(*chat, input="What is 2 + 3?\n", capture_output=True, **settings).stdout
        print(answer)
        assert "5" in answer
        ppl = [programs / "polarquant", "bench", "model-Q5", "--ppl", "--max-length", 128]
        words = run(*ppl, "--text-file", ASSETS / "gemma4-nano/golden/info.json", capture_output=True, **settings).stdout
        assert "perplexity" in words


if __name__ == "__main__":
    main()
