"""quantize --bpw and --size: what they choose, what they write, and what they refuse."""

import json
import re

import pytest
from conftest import hlwq, hlwq_json


@pytest.fixture
def sensitivity(llama, tmp_path):
    """A file of made-up sensitivities, for a model without a tokenizer: down_proj matters most."""
    report = hlwq_json("quantize", llama, "-o", tmp_path / "names", "--bits", 8)
    values = {t["name"]: 10.0 if "down_proj" in t["name"] else 0.1 for t in report["tensors"] if t["bits"]}
    path = tmp_path / "sensitivity.json"
    path.write_text(json.dumps(values))
    return path


def rate(report):
    coded = [t for t in report["tensors"] if t["bits"]]
    return 8 * sum(t["bytes"] for t in coded) / sum(t["elements"] for t in coded)


def sizes(message):
    """What an error says about the range: (least, most) in bits per weight, and in bytes."""
    found = re.search(r"from --bpw ([\d.]+) to ([\d.]+), which is --size (\d+) to (\d+)", message)
    assert found, message
    return (float(found[1]), float(found[2])), (int(found[3]), int(found[4]))


def test_bits_go_where_they_count(llama, sensitivity, tmp_path):
    policy = tmp_path / "policy.json"
    out = tmp_path / "q"
    hlwq("quantize", llama, "-o", out, "--bpw", 5, "--sensitivity", sensitivity, "--write-policy", policy)
    rules = json.loads(policy.read_text())
    bits = {rule["match"]: rule["bits"] for rule in rules["rules"]}
    down = [b for name, b in bits.items() if "down_proj" in name]
    rest = [b for name, b in bits.items() if "down_proj" not in name]
    assert min(down) >= max(rest) and max(down) > max(rest) and set(bits) == set(json.loads(sensitivity.read_text()))
    assert float(rules["about"]["bits per weight"]) <= 5
    # The policy file repeats the checkpoint, and lies beside it.
    hlwq("quantize", llama, "-o", tmp_path / "again", "--policy", policy)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("wanted", [3.5, 4.6, 7])
def test_rate_is_met_from_below(llama, sensitivity, tmp_path, wanted):
    report = hlwq_json("quantize", llama, "-o", tmp_path / "q", "--bpw", wanted, "--sensitivity", sensitivity)
    coded = [t for t in report["tensors"] if t["bits"]]
    weights = sum(t["elements"] for t in coded)
    # What is left over is less than a bit more for the largest tensor.
    slack = max(t["elements"] for t in coded) / weights
    assert wanted - slack <= 8 * sum(t["bytes"] for t in coded) / weights <= wanted


def test_size_counts_every_byte(llama, sensitivity, tmp_path):
    least, most = sizes(hlwq("quantize", llama, "-o", tmp_path / "q", "--size", "1KB", "--sensitivity", sensitivity,
                             code=2).stderr)[1]
    for share in (0, 0.3, 1, 3):
        size = round(least + share * (most - least))
        report = hlwq_json("quantize", llama, "-o", tmp_path / "q", "--size", size, "--sensitivity", sensitivity,
                           "--force")
        assert report["bytes_out"] <= size
        # Tables of widths that were not chosen are counted too, some thousand bytes at most.
        if share <= 1:
            largest = max(t["elements"] for t in report["tensors"])
            assert report["bytes_out"] >= size - largest / 8 - 8192


def test_too_little_is_said_with_both_ranges(llama, sensitivity, tmp_path):
    for option, value in (("--bpw", 1.9), ("--bpw", 0), ("--bpw", 40), ("--size", "2KB")):
        run = hlwq("quantize", llama, "-o", tmp_path / "q", option, value, "--sensitivity", sensitivity, code=2)
        (low, high), (least, most) = sizes(run.stderr)
        assert 2 < low < 2.6 and 8 < high < 8.6 and least < most
        assert not (tmp_path / "q").exists()
    # The limits themselves are possible.
    report = hlwq_json("quantize", llama, "-o", tmp_path / "q", "--bpw", low + 0.001, "--sensitivity", sensitivity)
    assert {t["bits"] for t in report["tensors"]} == {0, 2}
    assert rate(report) == pytest.approx(low, abs=0.001)


def test_what_is_refused(llama, sensitivity, tmp_path):
    out = ("quantize", llama, "-o", tmp_path / "q", "--sensitivity", sensitivity)
    hlwq(*out, "--bpw", 4, "--size", "1MB", code=2)
    hlwq(*out, "--bpw", 4, "--bits", 4, code=2)
    hlwq(*out, "--size", "1MB", "--policy", "q4", code=2)
    for size in ("5", "lots", "5QB", "-1MB", "1e30GB"):
        hlwq(*out, "--size", size, code=2)
    other = json.loads(sensitivity.read_text())
    other.pop(next(iter(other)))
    sensitivity.write_text(json.dumps(other))
    assert "another model" in hlwq(*out, "--bpw", 4, code=1).stderr
    sensitivity.write_text('{"a": "b"}')
    hlwq(*out, "--bpw", 4, code=1)
    assert not (tmp_path / "q").exists()


def test_sensitivities_are_measured_once(nano, tmp_path):
    """On nano: measured, kept in the file, and read from there the next time."""
    kept = tmp_path / "sensitivity.json"
    first = hlwq_json("quantize", nano, "-o", tmp_path / "a", "--bpw", 4.1, "--sensitivity", kept)
    values = json.loads(kept.read_text())
    assert set(values) == {t["name"] for t in first["tensors"] if t["bits"]}
    assert all(v >= 0 for v in values.values())
    written = kept.stat().st_mtime_ns
    second = hlwq_json("quantize", nano, "-o", tmp_path / "b", "--size", first["bytes_out"], "--sensitivity", kept)
    assert kept.stat().st_mtime_ns == written
    assert second["bytes_out"] <= first["bytes_out"]
    assert rate(second) == pytest.approx(4.1, abs=0.05)
