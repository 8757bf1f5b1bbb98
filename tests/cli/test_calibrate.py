"""quantize --calibrate: what it writes, what it refuses, and going on after an interrupt."""

import json
import os
import signal
import subprocess
import time

import pytest
from conftest import BINARY, hlwq, hlwq_json

SMALL = ("--calibration-tokens", 1024)


def files(directory):
    return {p.name: p.read_bytes() for p in sorted(directory.iterdir())}


@pytest.fixture(scope="module")
def calibrated(nano, tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrated") / "q"
    hlwq("quantize", nano, "-o", out, "--calibrate", "builtin", *SMALL)
    return out


def test_builtin_text(nano, nano_q5, calibrated):
    config = json.loads((calibrated / "config.json").read_text())["quantization_config"]
    note = config.pop("calibration")
    assert note["text"] == "builtin" and 512 <= note["tokens"] <= 1024
    # Nothing else tells that rounding had its way: the same tensors in the same format.
    assert config == json.loads((nano_q5 / "config.json").read_text())["quantization_config"]
    assert f"{note['tokens']} tokens" in (calibrated / "README.md").read_text()
    assert os.listdir(calibrated.parent) == ["q"]
    weights = "model.safetensors"
    assert (calibrated / weights).stat().st_size == (nano_q5 / weights).stat().st_size
    assert (calibrated / weights).read_bytes() != (nano_q5 / weights).read_bytes()
    answer = hlwq_json("run", calibrated, "-p", "Hello", "-n", 4, "--greedy")
    assert answer["ids"]


def test_goes_on_after_an_interrupt(nano, calibrated, tmp_path):
    out, work = tmp_path / "q", tmp_path / "q.calibration"
    command = [str(BINARY), "quantize", str(nano), "-o", str(out), "--calibrate", "builtin", *map(str, SMALL)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (work / "states").exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 1
    assert not out.exists() and (work / "calibration.json").exists()
    # Another policy would mix two kinds of codes.
    refused = hlwq("quantize", nano, "-o", out, "--calibrate", "builtin", *SMALL, "--bits", 3, code=1)
    assert "other settings" in refused.stderr
    hlwq("quantize", nano, "-o", out, "--calibrate", "builtin", *SMALL)
    assert files(out) == files(calibrated)
    assert not work.exists()


def test_json_lines(llama, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"ids": [(i * k) % 250 for i in range(60)]}) + "\n" for k in range(1, 30)))
    hlwq("quantize", llama, "-o", tmp_path / "q", "--calibrate", text, "--bits", 4)
    note = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]["calibration"]
    assert note == {"text": "file", "tokens": 29 * 60}
    text.write_text('{"prompt": "?"}')
    refused = hlwq("quantize", llama, "-o", tmp_path / "r", "--calibrate", text, code=1)
    assert "messages" in refused.stderr


def test_conversations(nano, tmp_path):
    text = tmp_path / "text.json"
    text.write_text(json.dumps([{"messages": [{"role": "user", "content": "What is a trie?"},
                                              {"role": "assistant", "content": "A tree of prefixes."}]},
                                {"text": "A trie is a tree whose paths spell its keys."}]))
    hlwq("quantize", nano, "-o", tmp_path / "q", "--calibrate", text)


def test_what_is_refused(nano, llama, tmp_path):
    hlwq("quantize", nano, "-o", tmp_path / "q", "--calibrate", "builtin", "--layout", "published", code=2)
    hlwq("quantize", nano, "-o", tmp_path / "q", "--calibrate", "builtin", "--norm", "published", code=2)
    hlwq("quantize", nano, "-o", tmp_path / "q", "--calibrate", tmp_path / "nowhere.txt", code=1)
    # Text needs a tokenizer.
    assert "tokenizer" in hlwq("quantize", llama, "-o", tmp_path / "q", "--calibrate", "builtin", code=1).stderr
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert "empty" in hlwq("quantize", nano, "-o", tmp_path / "q", "--calibrate", empty, code=1).stderr
    assert os.listdir(tmp_path) == ["empty.txt"]
    # Somebody's directory with the work's name is left alone.
    (tmp_path / "q.calibration").mkdir()
    (tmp_path / "q.calibration" / "precious").write_text("data")
    refused = hlwq("quantize", nano, "-o", tmp_path / "q", "--calibrate", "builtin", *SMALL, "--force", code=1)
    assert "in the way" in refused.stderr
    assert os.listdir(tmp_path / "q.calibration") == ["precious"]
    # Before any work is done.
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "precious").write_text("data")
    refused = hlwq("quantize", nano, "-o", tmp_path / "q", "--calibrate", "builtin", *SMALL, code=1, timeout=20)
    assert "exists" in refused.stderr
