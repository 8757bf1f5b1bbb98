"""Exit codes, help and error messages."""

import subprocess

import pytest
from conftest import BINARY, hlwq, hlwq_json

COMMANDS = ["quantize", "export", "run", "chat", "info", "bench", "tokenize", "template", "pull"]


def test_version_and_help():
    assert hlwq("--version").stdout.startswith("hlwq 0.")
    listing = hlwq("--help").stdout
    assert all(command in listing for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command):
    text = hlwq(command, "--help").stdout
    assert "Examples:" in text and f"hlwq {command} " in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["run"],
        ["run", "M"],
        ["run", "M", "-p", "a", "--ids", "1"],
        ["run", "M", "-p", "a", "--nonsense"],
        ["run", "M", "-p", "a", "-n", "-3"],
        ["run", "M", "-p", "a", "--kv", "f8"],
        ["run", "M", "-p", "a", "--ctx", "0"],
        ["run", "M", "-p", "a", "--ctx", "many"],
        ["run", "M", "-p", "a", "--raw", "--system", "s"],
        ["quantize", "M"],
        ["quantize", "M", "-o", "D", "--bits", "9"],
        ["quantize", "M", "-o", "D", "--bits", "4", "--policy", "q5"],
        ["quantize", "M", "-o", "D", "--policy", "nonsense"],
        ["export", "M", "-o", "D"],
        ["bench", "M", "--ppl", "--text-file", "T", "--ids-file", "I"],
        ["bench", "M", "--speed", "--text-file", "T"],
        ["bench", "M", "--compare", "q4", "--kld", "B"],
        ["bench", "M", "--compare", "fp16", "-o", "table.txt"],
        ["bench", "M", "--ppl", "--depths", "0,64"],
        ["bench", "M", "--speed", "--chart", "one.svg"],
        ["tokenize", "M", "-p", "a", "--decode", "1"],
        ["template", "M"],
    ],
)
def test_wrong_use_is_exit_code_2_and_one_line(arguments):
    run = hlwq(*arguments, code=2)
    assert run.stdout == "" and run.stderr.startswith("hlwq: ") and run.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--temp", "-1"], ["--top-p", "2"], ["--logit-bias", "x=1"],
                                       ["--logit-bias", "99999=1"], ["--isa", "mmx"]])
def test_bad_values_are_wrong_use(llama, arguments):
    hlwq("run", llama, "--ids", "1", *arguments, code=2)


@pytest.mark.parametrize("command", [["run", "-p", "a"], ["chat"], ["info"], ["bench"], ["tokenize", "-p", "a"],
                                     ["template", "-p", "a"], ["quantize", "-o", "unused"],
                                     ["export", "-o", "unused", "--to", "safetensors"]])
def test_missing_model_is_exit_code_1_and_one_line(command, tmp_path):
    missing = tmp_path / "no-model"
    run = hlwq(command[0], missing, *command[1:], code=1)
    assert run.stderr.startswith("hlwq: ") and run.stderr.count("\n") == 1 and "no-model" in run.stderr


def test_failed_output_is_an_error(llama):
    with open("/dev/full", "w") as full:
        run = subprocess.run([BINARY, "info", llama], stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1 and "standard output" in run.stderr


def test_kernels_are_forced_by_environment_and_flag(llama):
    assert hlwq_json("info", llama, env={"HLWQ_ISA": "scalar"})["backend"] == "cpu/scalar"
    fastest = hlwq_json("info", llama)["backend"]
    assert hlwq_json("info", llama, "--isa", fastest.removeprefix("cpu/"), env={"HLWQ_ISA": "scalar"})["backend"] == fastest
    assert hlwq_json("info", llama, env={"HLWQ_THREADS": "3"})["threads"] == 3
    assert hlwq_json("info", llama, "--threads", 1, env={"HLWQ_THREADS": "3"})["threads"] == 1
    hlwq("info", llama, env={"HLWQ_ISA": "mmx"}, code=2)
    hlwq("info", llama, env={"HLWQ_THREADS": "few"}, code=2)
