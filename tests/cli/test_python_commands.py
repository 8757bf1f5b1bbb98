"""What the program leaves to Python: how it is found and started, with a stand-in for Python."""

import json
import stat

import pytest
from conftest import hlwq

STAND_IN = """#!/bin/sh
case "$1" in
-c) exit ${STAND_IN_PROBE:-0} ;;
esac
printf '%s\\n' "$@" >"$STAND_IN_LOG"
printf '%s' "$STAND_IN_PRINTS"
exit ${STAND_IN_CODE:-0}
"""
SCORE = {"task": "t", "metric": "acc", "filter": "none", "value": 0.25, "stderr": None, "fewshot": 2, "samples": 3,
         "version": 1}  # fmt: skip


@pytest.fixture
def python(tmp_path):
    """Settings under which the program takes a script for Python, and what the script was given."""
    script, log = tmp_path / "a python", tmp_path / "log"
    script.write_text(STAND_IN)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {"HLWQ_PYTHON_EXE": str(script), "STAND_IN_LOG": str(log)}, lambda: log.read_text().splitlines()


def test_demo_passes_everything_on(python):
    env, given = python
    odd = ["a model; echo", "--port", "80", "--name=$HOME 'x'", "--help"]
    hlwq("demo", *odd, env=env | {"STAND_IN_CODE": "7"}, code=7)
    assert given() == ["-m", "hlwq", "demo", *odd]


def test_the_package_is_asked_for_when_it_is_missing(tmp_path):
    for arguments, extra in ((["demo", "x"], "[demo]"), (["bench", "x", "--tasks", "t"], "[eval]")):
        for exe in ("/bin/false", tmp_path / "none"):
            error = hlwq(*arguments, env={"HLWQ_PYTHON_EXE": str(exe)}, code=1).stderr
            assert error.count("\n") == 1 and f"pip install '.{extra}'" in error and str(exe) in error


def test_bench_takes_the_scores(python, nano_q5, tmp_path):
    env, given = python
    env["STAND_IN_PRINTS"] = json.dumps({"tasks": [SCORE]})
    settings = ["--fewshot", 2, "--limit", 3, "--kv-bits", 4, "--device", "cpu", "--threads", 1]
    bench = hlwq("bench", nano_q5, "--tasks", "t,u", *settings, "-o", tmp_path / "o.json", env=env)
    command, request = given()[2], json.loads(given()[3])
    assert command == "tasks" and request["model"] == str(nano_q5) and request["tasks"] == ["t", "u"]
    assert request["fewshot"] == 2 and request["limit"] == 3
    assert request["options"] == {"kv_bits": 4, "threads": 1, "device": "cpu"}
    assert "0.2500" in bench.stdout and "tok/s" not in bench.stdout
    assert json.loads((tmp_path / "o.json").read_text())["tasks"] == [SCORE]
    # What failed has said why; its exit code is ours.
    assert hlwq("bench", nano_q5, "--tasks", "t", env=env | {"STAND_IN_CODE": "3"}, code=3).stderr == ""


def test_wrong_use(nano_q5):
    assert "--tasks" in hlwq("bench", nano_q5, "--fewshot", 1, code=2).stderr
    assert "--limit" in hlwq("bench", nano_q5, "--tasks", "t", "--limit", 0, code=2).stderr
    assert "--kv-bits" in hlwq("bench", nano_q5, "--tasks", "t", "--kv-tail", 8, code=2).stderr
