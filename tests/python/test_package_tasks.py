"""lm-evaluation-harness with our model: what it asks for, without the harness, whose base class is an empty one."""

import sys
import types

import pytest

hlwq = pytest.importorskip("hlwq", reason="the build has no Python package (cmake -DHLWQ_PYTHON=ON)")


class Request:
    def __init__(self, *args):
        self.args = args


@pytest.fixture
def harness_model(q5, monkeypatch):
    harness, api, module = types.ModuleType("lm_eval"), types.ModuleType("lm_eval.api"), types.ModuleType("lm_eval.api.model")
    module.LM = object
    for name, fake in (("lm_eval", harness), ("lm_eval.api", api), ("lm_eval.api.model", module)):
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.delitem(sys.modules, "hlwq.lm_eval", raising=False)
    from hlwq.lm_eval import HarnessModel

    yield HarnessModel(q5)
    sys.modules.pop("hlwq.lm_eval", None)


def test_log_likelihoods_are_the_model_s(harness_model, q5):
    pairs = [("The sky is", " blue"), ("The sky is", " seven"), ("", "Once"), ("What is 2 + 3? ", "5")]
    got = harness_model.loglikelihood([Request(*pair) for pair in pairs])
    for (context, continuation), (total, greedy) in zip(pairs, got, strict=True):
        before, after = q5.token_pair(context, continuation)
        expected, likeliest = q5.token_logprobs([2, *before, *after] if before != [2] else [2, *after],
                                                start=len(before) + (before != [2]))  # fmt: skip
        # The same sums, over a cache that other calls have filled.
        assert total == pytest.approx(expected.sum(), abs=1e-3) and greedy == likeliest.all()


def test_long_texts_lose_their_beginning(harness_model, q5):
    ids = q5.tokenizer.encode("The sky is blue and the sea is green. " * 20)
    harness_model.context = 64
    expected = q5.token_logprobs([*ids[-64:], 5], start=64)[0].sum()
    assert harness_model._score(ids, [5])[0] == pytest.approx(expected, abs=1e-3)


def test_rolling_counts_every_token_once(harness_model, q5):
    text = "The sky is blue. The grass is green."
    ids = q5.tokenizer.encode(text)
    whole = q5.token_logprobs([2, *ids])[0].sum()
    assert harness_model.loglikelihood_rolling([Request(text)])[0] == pytest.approx(whole, abs=1e-3)
    harness_model.context = 4
    parts = [[2, *ids[:4]], [ids[3], *ids[4:8]], [ids[7], *ids[8:12]]]
    expected = sum(q5.token_logprobs(part)[0].sum() for part in parts)
    short = q5.tokenizer.decode(ids[:12])
    assert q5.tokenizer.encode(short) == ids[:12]
    assert harness_model.loglikelihood_rolling([Request(short)])[0] == pytest.approx(expected, abs=1e-3)


def test_generating_until(harness_model, q5):
    prompt = harness_model.apply_chat_template([{"role": "user", "content": "What is 2 + 3?"}])
    assert not prompt.startswith("<bos>")
    until = {"until": ["="], "max_gen_toks": 20, "do_sample": False}
    assert harness_model.generate_until([Request(prompt, until)]) == ["2 + 3 "]
    assert harness_model.tokenizer_name
