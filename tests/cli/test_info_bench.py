"""info and bench: JSON keys, and figures that can be checked against each other."""

import json

import pytest
from conftest import asset, hlwq, hlwq_json


def test_info_keys_and_sums(llama):
    facts = hlwq_json("info", llama)
    config = json.loads((llama / "config.json").read_text())
    assert {"architecture", "params", "weight_bytes", "kv_bytes_per_token", "memory"} <= set(facts)
    assert facts["architecture"] == "LlamaForCausalLM"
    # K and V of every layer, BF16.
    kv = 2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
    assert facts["kv_bytes_per_token"] == kv
    for plan in facts["memory"]:
        assert set(plan) == {"ctx", "kv_bits", "weights", "kv", "vision", "scratch", "total"}
        assert plan["total"] == plan["weights"] + plan["kv"] + plan["vision"] + plan["scratch"]
        assert plan["weights"] == facts["weight_bytes"] and plan["kv"] >= kv * plan["ctx"]
    assert facts["memory"][-1]["ctx"] == config["max_position_embeddings"]
    assert sum(f["bytes"] for f in facts["formats"]) <= facts["weight_bytes"]


@pytest.mark.parametrize("name", ["llama_tied", "gemma3", "gemma4", "gemma4_e2b", "gemma4_moe"])
@pytest.mark.parametrize("kv", ["bf16", "f32"])
def test_the_plan_is_what_a_session_allocates(name, kv):
    (plan,) = hlwq_json("info", asset(name), "--ctx", 300, "--kv", kv)["memory"]
    real = hlwq_json("run", asset(name), "--ids", "2", "-n", 1, "--ctx", 300, "--kv", kv)["memory"]
    assert plan["kv_bits"] == (32 if kv == "f32" else 16)
    assert (plan["ctx"], plan["kv"], plan["scratch"]) == (real["ctx"], real["kv"], real["scratch"])


def test_info_of_a_quantised_model(nano, nano_q5):
    dense, coded = hlwq_json("info", nano), hlwq_json("info", nano_q5)
    assert coded["params"] == dense["params"] and coded["weight_bytes"] < 0.4 * dense["weight_bytes"]
    assert {f["format"] for f in coded["formats"]} == {"Q5 l2", "Q6 l2"}
    assert 5 < coded["bits_per_weight"] < 6 and dense["bits_per_weight"] == 16


def test_info_text_and_bad_contexts(llama):
    text = hlwq("info", llama).stdout
    assert "LlamaForCausalLM" in text and "KV cache" in text
    hlwq("info", llama, "--ctx", "100000", code=2)
    hlwq("info", llama, "--ctx", "some", code=2)


BENCH_KEYS = {"tokens", "nll", "ppl", "kl_mean", "kl_median", "top1", "prefill_tok_s", "decode_tok_s", "weight_bytes",
              "bits_per_weight", "backend", "threads"}


def test_bench_quality(nano, nano_q5, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 30)
    b = hlwq_json("bench", nano_q5, "--kld", nano, "--text-file", text, "--ctx", 64, "--windows", 3)
    assert BENCH_KEYS <= set(b) and b["prefill_tok_s"] is None
    assert b["tokens"] == 3 * 63 and 0 < b["kl_mean"] < 0.1 and 0.8 < b["top1"] <= 1
    same = hlwq_json("bench", nano, "--kld", nano, "--text-file", text, "--ctx", 64, "--windows", 3)
    assert same["kl_mean"] < 1e-9 and same["top1"] == 1 and same["nll"] == same["base_nll"]
    alone = hlwq_json("bench", nano, "--ppl", "--text-file", text, "--ctx", 64, "--windows", 3)
    assert alone["nll"] == pytest.approx(same["nll"], abs=1e-9) and alone["kl_mean"] is None


def test_bench_on_ids(llama, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text(" ".join(str(3 + i % 300) for i in range(600)))
    b = hlwq_json("bench", llama, "--ppl", "--ids-file", ids, "--ctx", 128)
    # A random model knows nothing: close to uniform over its vocabulary.
    assert b["tokens"] > 500 and 100 < b["ppl"] < 1000
    ids.write_text("3")
    hlwq("bench", llama, "--ppl", "--ids-file", ids, "--ctx", 128, code=1)


def test_bench_speed(llama):
    b = hlwq_json("bench", llama, "--speed", "--prompt", 16, "--decode", 4, "--repeats", 1, env={"HLWQ_ISA": "scalar"})
    assert BENCH_KEYS <= set(b) and b["backend"] == "cpu/scalar" and b["ppl"] is None
    assert b["prefill_tok_s"] > 0 and b["decode_tok_s"] > 0 and b["read_gb_s"] > 0
