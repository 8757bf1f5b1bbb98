"""Numbers of the Python package against transformers and tokenizers."""

import json

import numpy as np
import pytest

hlwq = pytest.importorskip("hlwq", reason="the build has no Python package (cmake -DHLWQ_PYTHON=ON)")

# As in tests/model/golden_test.cpp: both sides are float32 in different orders of summing.
TOLERANCE = 5e-3


def nano_cases(nano_path, kind):
    return [c for c in json.loads((nano_path / "golden/logits.json").read_text()) if c["kind"] == kind]


def test_nano_logits_are_those_of_transformers(nano, nano_path):
    cases = nano_cases(nano_path, "text")
    assert len(cases) == 3
    for case in cases:
        logits = nano.logits(case["input_ids"])
        assert logits.shape == (len(case["input_ids"]), 8192) and logits.dtype == np.float32
        for golden in case["positions"]:
            row = logits[golden["position"]].astype(np.float64)
            np.testing.assert_allclose(row[golden["top_ids"]], golden["top_logits"], atol=TOLERANCE)
            assert abs(np.log(np.exp(row).sum()) - golden["logsumexp"]) <= TOLERANCE


@pytest.mark.parametrize("name", ["llama_tied", "llama3_rope", "gemma3", "gemma4", "gemma4_moe", "gemma4_e2b"])
def test_family_logits_are_those_of_transformers(assets, name):
    model = hlwq.Model.from_pretrained(assets / name, kv_bits=32)
    for prompt in json.loads((assets / name / "golden.json").read_text())["prompts"]:
        logits = model.logits(np.array(prompt["ids"]))
        np.testing.assert_allclose(logits[prompt["positions"]], prompt["logits"], atol=TOLERANCE)
        expected = prompt["greedy_ids"]
        answer = model.generate(prompt["ids"], len(expected), temperature=0, ignore_eos=True)
        same = next((i for i, (a, b) in enumerate(zip(answer.ids, expected, strict=True)) if a != b), None)
        # Both logits are within the tolerance of ours, so a smaller margin than their sum may flip.
        assert same is None or prompt["greedy_margin"][same] < 2 * TOLERANCE
        assert answer == "" and answer.finish_reason == "length"  # no tokenizer, no text


def test_images_are_seen_as_transformers_sees_them(nano, nano_path):
    for case in nano_cases(nano_path, "image"):
        answer = nano.generate(case["question"], images=[nano_path / "golden" / case["image"]], temperature=0)
        assert answer == case["expected"]


def test_parts_of_logits(nano, nano_path):
    ids = nano_cases(nano_path, "text")[2]["input_ids"]
    whole = nano.logits(ids)
    # The same tokens in other chunks, after what was kept of the last call: sums of other orders, no more.
    np.testing.assert_allclose(nano.logits(ids, start=len(ids) - 3), whole[-3:], atol=TOLERANCE)
    np.testing.assert_allclose(nano.logits(ids[:5]), whole[:5], atol=TOLERANCE)
    assert nano.logits(ids, start=len(ids)).shape == (0, 8192)
    assert nano.logits(np.array(ids, np.uint16)[::1], start=1).shape == (len(ids) - 1, 8192)


def test_loglikelihoods_are_those_of_the_logits(nano, nano_path):
    ids = nano_cases(nano_path, "text")[1]["input_ids"]
    logits = nano.logits(ids).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = np.array([logprobs[i - 1, ids[i]] for i in range(1, len(ids))])
    got, likeliest = nano.token_logprobs(ids)
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)
    assert (likeliest == (logits[:-1].argmax(axis=1) == ids[1:])).all()
    total, greedy = nano.loglikelihood(ids[:4], ids[4:])
    assert abs(total - expected[3:].sum()) <= TOLERANCE * len(ids) and greedy == likeliest[3:].all()


def test_loglikelihood_cuts_texts_as_the_harness_does(nano):
    encode = nano.tokenizer.encode
    context, continuation = "The sky is ", "blue"
    whole, before = encode("The sky is blue"), encode("The sky is")
    assert whole[: len(before)] == before
    expected, _ = nano.token_logprobs(whole, start=len(before))
    assert nano.loglikelihood(context, continuation)[0] == pytest.approx(expected.sum(), abs=1e-3)
    alone, _ = nano.token_logprobs([nano.tokenizer.bos_id, *encode("blue", add_special=False)], start=1)
    assert nano.loglikelihood("", "blue")[0] == pytest.approx(alone.sum(), abs=1e-3)
    greedy = nano.generate("The sky is", 4, raw=True, temperature=0)
    assert nano.loglikelihood(encode("The sky is"), greedy.ids)[1]


def test_tokenizer_is_that_of_tokenizers(nano, nano_path):
    oracle = pytest.importorskip("tokenizers").Tokenizer.from_file(str(nano_path / "tokenizer.json"))
    texts = (nano_path / "golden/heldout.txt").read_text().splitlines()[:200]
    for text in [*texts, "", " ", "Zürich 漢字 🙂 e\u0301", "<|turn>user\nhi<turn|>"]:
        expected = oracle.encode(text, add_special_tokens=False).ids
        assert nano.tokenizer.encode(text, add_special=False, parse_special=True) == expected
        assert nano.tokenizer.decode(expected, skip_special=False) == oracle.decode(expected, skip_special_tokens=False)
    tokenizer = nano.tokenizer
    assert len(tokenizer) == oracle.get_vocab_size()
    assert tokenizer.token(106) == "<turn|>" and tokenizer.token_id("<turn|>") == 106 and tokenizer.is_special(106)
    assert 106 in tokenizer.stop_ids and tokenizer.token_id("no such token") is None
    assert tokenizer.bos_id == 2 and tokenizer.decode([2]) == "" and tokenizer.decode(2, skip_special=False) == "<bos>"
    # What a stranger's text spells out is text.
    assert 106 not in tokenizer.encode("<turn|>")
