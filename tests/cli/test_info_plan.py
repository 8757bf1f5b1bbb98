"""info: planning for models that are not there, and for weights that have not been quantized yet."""

import json
import shutil

import pytest
from conftest import ROOT, asset, hlwq, hlwq_json

CONFIGS = ROOT / "tests" / "golden" / "configs"


def model_dir(tmp_path, config):
    """A model directory that holds only this config.json."""
    path = tmp_path / "model"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def gemma_31b(tmp_path):
    return model_dir(tmp_path, json.loads((CONFIGS / "gemma-4-31B.json").read_text()))


def test_a_config_is_enough(gemma_31b):
    facts = hlwq_json("info", gemma_31b)
    assert facts["has_weights"] is False and facts["policy"] == "stored" and facts["notes"] == []
    assert facts["params"] == 31273088876 and facts["vision_bytes"] == 2 * 575743536
    assert facts["weight_bytes"] == 2 * 30697345340 and facts["bits_per_weight"] == 16
    # Keys of full layers are rebuilt from their values; that takes cosines and sines of 64 pairs a token.
    assert facts["kv_bytes_per_token"] == 81920 and facts["kv_full_per_token"] == 81920 // 2 + 64 * 2 * 4
    bf16, q4, q3 = facts["caches"]
    assert [c["kv"] for c in facts["caches"]] == ["BF16", "Q4", "Q3"]
    assert all(c["values_only_layers"] == 10 for c in facts["caches"])
    assert (q4["full_per_token"], q3["full_per_token"]) == (10 * 4 * 258 + 512, 10 * 4 * 194 + 512)
    for a, b, c in zip(*(cache["memory"][1:] for cache in (bf16, q4, q3))):
        assert a["ctx"] == b["ctx"] == c["ctx"] and a["kv"] > b["kv"] > c["kv"]
        assert a["total"] - a["kv"] == c["total"] - c["kv"]
    assert [plan["ctx"] for plan in facts["memory"]] == [1024, 4096, 32768, 131072, 262144]
    for plan in facts["memory"]:
        assert plan["total"] == plan["weights"] + plan["kv"] + plan["vision"] + plan["scratch"]
    sizes = {s["policy"]: s for s in facts["policies"]}
    assert set(sizes) == {"stored", "q8", "q6-l2", "default-l2", "q5-l2", "q4-l2", "q3-l2", "q2-l2"}
    assert sizes["q5-l2"]["text"] / 1e9 == pytest.approx(19.7, abs=0.05)
    assert sizes["q5-l2"]["bits_per_weight"] == 5.125
    assert all(s["bytes"] >= s["text"] + s["vision"] + s["audio"] for s in sizes.values())


def test_the_cards_that_fit(gemma_31b):
    facts = hlwq_json("info", gemma_31b, "--policy", "q5")
    cards = {gpu["name"]: gpu for gpu in facts["gpus"] if gpu["kv"] == "BF16"}
    assert list(cards) == [f"{n} GB" for n in (8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 80, 96)]
    assert cards["24 GB"]["bytes"] == 24564 << 20
    assert {gpu["policy"] for gpu in facts["gpus"]} == {"q5"} and facts["policy"] == "q5"
    whole = [gpu["max_context"] for gpu in facts["gpus"] if gpu["name"] == "24 GB" and gpu["kv"] in ("Q4", "Q3")]
    assert whole == [262144, 262144]
    assert cards["16 GB"]["max_context"] == 0 and cards["96 GB"]["max_context"] == 262144
    assert 1e8 < facts["image_scratch"] < 3e8
    longest = cards["24 GB"]["max_context"]
    assert 0 < longest < 262144
    # The plan at that context fits; at one token more it does not.
    for context, fits in ((longest, True), (longest + 1, False)):
        (plan,) = hlwq_json("info", gemma_31b, "--policy", "q5", "--ctx", context)["memory"]
        assert (plan["total"] + facts["image_scratch"] <= cards["24 GB"]["bytes"] - facts["gpu_reserve"]) is fits


def test_the_text_is_a_page_wide(gemma_31b):
    text = hlwq("info", gemma_31b).stdout
    assert "no weights here" in text and "262,144" in text
    assert max(len(line) for line in text.splitlines() if str(gemma_31b) not in line) <= 120
    head = next(line for line in text.splitlines() if line.startswith("weights") and line.endswith("96"))
    row = next(line for line in text.splitlines() if line.startswith("Q5 l2") and line.endswith("all"))
    assert len(row) == len(head)


def test_the_rate_that_fits(gemma_31b):
    facts = hlwq_json("info", gemma_31b, "--ctx", "32768,262144")
    assert len(facts["rates"]) == 12 * 2 * 3
    rates = {(r["name"], r["ctx"], r["kv"]): r for r in facts["rates"]}
    sizes = {s["policy"]: s for s in facts["policies"]}
    for gpu in facts["gpus"]:  # the table of cards and the table of rates are two views of the same plans
        if gpu["policy"] == "stored":  # not in codes
            continue
        for ctx in (32768, 262144):
            rate = rates[gpu["name"], ctx, gpu["kv"]]
            fits = rate["bits_per_weight"] >= sizes[gpu["policy"]]["bits_per_weight"]
            assert fits == (gpu["max_context"] >= ctx), (gpu, rate)
    q4, q3 = (rates["24 GB", 262144, kv] for kv in ("Q4", "Q3"))
    assert (q4["bits_per_weight"], q3["bits_per_weight"]) == (pytest.approx(5.16, abs=0.01), pytest.approx(5.33, abs=0.01))
    # One bit more is one bit more for every weight in codes.
    slope = (q3["size"] - q4["size"]) / (q3["bits_per_weight"] - q4["bits_per_weight"])
    assert slope == pytest.approx(sizes["q4-l2"]["bytes"] - sizes["q3-l2"]["bytes"], rel=1e-6)
    text = hlwq("info", gemma_31b, "--ctx", "32768,262144").stdout
    assert "--bpw" in text and "5.16" in text
    # Nothing is promised where a policy was named.
    assert hlwq_json("info", gemma_31b, "--policy", "q4")["rates"] == []


def test_lags_name_the_policy(gemma_31b, tmp_path):
    plain, coupled = (hlwq_json("info", gemma_31b, "--policy", "q4", "--lags", n) for n in (1, 2))
    assert (plain["policy"], coupled["policy"]) == ("q4", "q4-l2")
    assert plain["weight_bytes"] == coupled["weight_bytes"]
    assert "Q4 l2" in {f["format"] for f in coupled["formats"]}
    (tmp_path / "p.json").write_text("[]")
    for wrong in (["--lags", 2], ["--policy", "q4", "--lags", 4], ["--policy", tmp_path / "p.json", "--lags", 2]):
        hlwq("info", gemma_31b, *wrong, code=2)


@pytest.mark.parametrize("name", ["gemma4-nano", "gemma4_mm_moe", "gemma4_mm_e2b", "llama_untied_bias"])
@pytest.mark.parametrize("policy", ["default", "q3", "published"])
def test_predicted_is_what_quantize_writes(name, policy, tmp_path):
    model, out = asset(name), tmp_path / "out"
    written = hlwq_json("quantize", model, "-o", out, "--policy", policy)["bytes_out"]
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(model / "config.json", bare)
    for source in (model, bare):
        facts = hlwq_json("info", source, "--policy", policy)
        assert facts["policies"][0]["bytes"] == written
        assert facts["memory"][0]["weights"] == facts["weight_bytes"] == facts["policies"][0]["text"]
    real = hlwq_json("info", out)
    assert real["weight_bytes"] == facts["weight_bytes"] and real["bits_per_weight"] == facts["bits_per_weight"]
    # The checkpoint's own config says as much as its weights do.
    (bare / "config.json").write_text((out / "config.json").read_text())
    planned = hlwq_json("info", bare)
    for key in ("weight_bytes", "vision_bytes", "params", "bits_per_weight", "formats", "memory", "gpus"):
        assert planned[key] == real[key], key


def test_small_models_need_no_table(nano):
    text = hlwq("info", nano).stdout
    assert "Fits cards of 8 GB and more with its whole context" in text and "-: too small" not in text and "--bpw" not in text


def test_a_policy_file(gemma_31b, tmp_path):
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"default": {"bits": 4}, "rules": [{"match": "*embed_tokens*", "bits": None}]}))
    facts = hlwq_json("info", gemma_31b, "--policy", policy)
    assert facts["policy"] == "custom" and {f["format"] for f in facts["formats"]} == {"Q4", "BF16"}
    hlwq("info", gemma_31b, "--policy", "q9", code=2)
    policy.write_text('{"default": {"bits": 40}}')
    hlwq("info", gemma_31b, "--policy", policy, code=1)


def test_quantized_models_are_not_quantized_again(nano_q5):
    assert "already quantized" in hlwq("info", nano_q5, "--policy", "q4", code=1).stderr
    assert hlwq_json("info", nano_q5)["policies"] == []


def changed(**text):
    config = json.loads((CONFIGS / "gemma-4-31B.json").read_text())
    layers = text.get("num_hidden_layers")
    if isinstance(layers, int) and 0 < layers <= 1 << 20:
        text["layer_types"] = ["full_attention"] * layers
    config["text_config"].update(text)
    return config


ABSURD = {
    "no layers": changed(num_hidden_layers=0),
    "a billion layers": changed(num_hidden_layers=10**9),
    "negative": changed(hidden_size=-1),
    "not a number": changed(hidden_size="5376"),
    "fraction": changed(vocab_size=262144.5),
    "beyond 64 bits": changed(vocab_size=10**30),
    "too much of everything": changed(hidden_size=1 << 20, intermediate_size=1 << 22, num_hidden_layers=4096),
    "no text": {"model_type": "gemma4", "text_config": None},
    "unknown": {"model_type": "novel"},
    "a list": [1, 2],
    "odd vision": changed() | {"vision_config": {"model_type": "gemma4_vision", "num_hidden_layers": 1 << 40}},
    "deep vision": changed() | {"vision_config": {"model_type": ["gemma4_vision"]}},
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_configs(name, tmp_path):
    run = hlwq("info", model_dir(tmp_path, ABSURD[name]), code=1, timeout=20)
    assert run.stderr.startswith("hlwq: ") and run.stderr.count("\n") == 1 and len(run.stderr) < 400


def test_the_largest_allowed_model_is_planned_quickly(tmp_path):
    # All sizes at the edge of what configs may say: no overflow, no allocation of what is planned.
    config = changed(num_hidden_layers=4096, max_position_embeddings=1 << 31, num_attention_heads=64,
                     num_key_value_heads=64, num_global_key_value_heads=64, global_head_dim=4096, attention_k_eq_v=False)
    facts = hlwq_json("info", model_dir(tmp_path, config), timeout=60)
    per_token = 4096 * 64 * 4096 * 2 * 2
    assert facts["kv_full_per_token"] == per_token
    assert facts["memory"][-1]["kv"] == per_token << 31
    assert all(gpu["max_context"] == 0 for gpu in facts["gpus"])


def test_parts_that_are_not_known_are_named(tmp_path):
    config = changed() | {"vision_config": {"model_type": "something_new"}}
    facts = hlwq_json("info", model_dir(tmp_path, config))
    assert facts["notes"] == ["not counted: the something_new encoder"] and facts["vision_bytes"] == 0
    assert "not counted" in hlwq("info", model_dir(tmp_path, config)).stdout
