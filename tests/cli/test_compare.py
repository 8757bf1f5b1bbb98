"""bench --compare: rows, files, chart, missing tools and interruption."""

import json
import os
import signal
import struct
import subprocess
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from conftest import BINARY, hlwq, hlwq_json


@pytest.fixture(scope="module")
def ids(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "ids.txt"
    path.write_text(" ".join(str(3 + i * 7 % 300) for i in range(64)))
    return path


def write_gguf(path, hidden=64, inner=128, vocab=320):
    """A random llama of one layer, F32, without a tokenizer."""
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    facts = {"block_count": 1, "context_length": 64, "embedding_length": hidden, "feed_forward_length": inner,
             "attention.head_count": 4, "attention.head_count_kv": 4}
    keys = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    keys += b"".join(text(f"llama.{k}") + struct.pack("<II", 4, v) for k, v in facts.items())
    keys += text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5)
    shapes = {"token_embd": (vocab, hidden), "output_norm": (hidden,), "output": (vocab, hidden)}
    shapes |= {f"blk.0.{n}": (hidden, hidden) for n in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {f"blk.0.{n}": (inner, hidden) for n in ("ffn_gate", "ffn_up")}
    shapes |= {"blk.0.ffn_down": (hidden, inner), "blk.0.attn_norm": (hidden,), "blk.0.ffn_norm": (hidden,)}
    rng = np.random.default_rng(1)
    infos, data = b"", b""
    for name, shape in shapes.items():
        infos += text(name + ".weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), 0, len(data))
        data += (rng.standard_normal(shape) * (0.2 if len(shape) > 1 else 0) + (len(shape) == 1)).astype("<f4").tobytes()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(facts) + 2) + keys + infos
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)


def test_every_variant_in_table_json_and_chart(llama, ids, tmp_path):
    policy = tmp_path / "mixed.json"
    policy.write_text('{"default": {"bits": 4}, "rules": [{"match": "*down_proj*", "bits": 6}]}')
    checkpoint = tmp_path / "made-before"
    hlwq("quantize", llama, "-o", checkpoint, "--policy", "q5")
    names = ["q3", "q4", "q4-l2", "q5", "default", "int4", "nf4", "mixed", "made-before"]
    variants = [{"mixed": policy, "made-before": checkpoint}.get(n, n) for n in names]
    out, chart = tmp_path / "results", tmp_path / "chart.svg"
    out.mkdir()
    common = ["--ids-file", ids, "--ctx", 32, "--threads", 2]
    table = hlwq("bench", llama, "--compare", ",".join(map(str, variants)), *common, "-o", out / "a.json", "-o", out / "a.md",
                 "--chart", chart).stdout
    report = json.loads((out / "a.json").read_text())
    rows = {v["name"]: v for v in report["variants"]}
    assert list(rows) == names
    markdown = (out / "a.md").read_text()
    drawn = [e.text for e in ElementTree.parse(chart).getroot().iter("{http://www.w3.org/2000/svg}text")]
    for name in names:
        assert f"\n{name} " in table and f"| {name} |" in markdown and name in drawn
        assert rows[name]["kl_mean"] > 0 and rows[name]["ppl"] > 1 and 0 <= rows[name]["top1"] <= 1
    assert rows["made-before"]["kl_mean"] == rows["q5"]["kl_mean"], "the same checkpoint measured either way"
    assert rows["made-before"]["weight_bytes"] == rows["q5"]["weight_bytes"]
    assert rows["q3"]["kl_mean"] > rows["q4"]["kl_mean"] > rows["q5"]["kl_mean"]
    assert rows["q4-l2"]["family"] == "HLWQ, 2 lags" and rows["q4"]["family"] == "HLWQ"
    assert rows["nf4"]["bits_per_weight"] == pytest.approx(4.5)
    assert report["weight_bytes"] > rows["q5"]["weight_bytes"] > rows["q3"]["weight_bytes"]
    # The same figures as measuring it alone, and nothing left beside the results.
    alone = hlwq_json("bench", checkpoint, "--kld", llama, *common)
    assert alone["kl_mean"] == rows["q5"]["kl_mean"] and alone["base_ppl"] == report["ppl"]
    assert sorted(p.name for p in out.iterdir()) == ["a.json", "a.md"]


def test_gguf_types_need_the_tool_and_a_gguf(llama, ids, tmp_path):
    common = ["--ids-file", ids, "--ctx", 32, "--compare", "q4_k_m"]
    missing = "--llama-quantize", tmp_path / "nowhere"
    (row,) = hlwq_json("bench", llama, *common, *missing)["variants"]
    assert "not installed" in row["missing"] and "kl_mean" not in row
    assert "q4_k_m: not measured" in hlwq("bench", llama, *common, *missing).stdout
    tool = tmp_path / "tool"
    # Stands for llama.cpp: notes what it was asked for and copies the file.
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n[ "$4" != Q5_K_M ] || {{ echo "no such type"; exit 3; }}\ncp "$2" "$3"\n')
    tool.chmod(0o755)
    (row,) = hlwq_json("bench", llama, *common, "--llama-quantize", tool)["variants"]
    assert "GGUF files only" in row["missing"]
    gguf = tmp_path / "model.gguf"
    write_gguf(gguf)
    options = ["--ids-file", ids, "--ctx", 32, "--llama-quantize", tool]
    (row,) = hlwq_json("bench", gguf, "--compare", "q4_k_m", *options)["variants"]
    assert row["family"] == "GGUF" and row["kl_mean"] == 0 and row["top1"] == 1
    asked = (tmp_path / "asked").read_text().split()
    assert asked[0] == "--allow-requantize" and asked[1] == str(gguf) and asked[3] == "Q4_K_M"
    failed = hlwq("bench", gguf, "--compare", "q5_k_m", *options, code=1)
    assert "no such type" in failed.stderr


def test_wrong_use(llama, ids, tmp_path):
    wrong = hlwq("bench", llama, "--compare", "q4,q9", "--ids-file", ids, code=2).stderr
    assert "q9" in wrong and "nf4" in wrong and "q4_k_m" in wrong
    assert "only token ids work" in hlwq("bench", llama, "--compare", "q4", code=1).stderr  # the text that comes along
    hlwq("bench", llama, "--compare", "q4", "--ids-file", ids, "-o", tmp_path / "a.txt", code=2)
    hlwq("bench", llama, "--compare", "q4", "--ids-file", ids, "--kld", llama, code=2)
    hlwq("bench", llama, "--speed", "--chart", tmp_path / "a.svg", code=2)


def test_interrupted_leaves_nothing(nano, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 2000)
    out = tmp_path / "results"
    out.mkdir()
    run = subprocess.Popen([BINARY, "bench", nano, "--compare", "q4", "--text-file", text, "-o", out / "a.md"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           env={k: v for k, v in os.environ.items() if not k.startswith("HLWQ_")})
    deadline = time.monotonic() + 60
    while not list(out.glob("hlwq-compare-*/*")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 1 and list(out.iterdir()) == []
