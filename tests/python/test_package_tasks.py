"""lm-evaluation-harness with our model: what it asks for, without the harness, whose base class is an empty one."""

import json
import sys
import types

import numpy as np
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


QUESTIONS = [
    ("What is 2 + 3?", ["5", "eleven"], 0),
    ("What colour is the sky?", ["a wooden table", "blue"], 1),
    ("What is the capital of France?", ["Paris", "a spoon"], 1),
]
TASK = """
task: colours_and_sums
dataset_path: json
dataset_kwargs: {data_files: {test: QUESTIONS}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}, {metric: acc_norm, aggregation: mean, higher_is_better: true}]
metadata: {version: 3}
"""


def by_hand(model, context, continuation):
    """The continuation's log-probability from the logits, after a BOS."""
    whole, before = (model.tokenizer.encode(text, add_special=False) for text in (context + continuation, context))
    assert whole[: len(before)] == before
    ids = [model.tokenizer.bos_id, *whole]
    rows = model.logits(ids).astype(np.float64)[len(before) : -1]
    return sum(row[i] - row.max() - np.log(np.exp(row - row.max()).sum())
               for row, i in zip(rows, ids[len(before) + 1 :], strict=True))  # fmt: skip


def test_bench_tasks_scores_are_those_by_hand(command, q5, q5_path, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (pip install lm-eval, 600 MB)")
    lines = [json.dumps({"question": q, "choices": c, "label": i}) for q, c, i in QUESTIONS]
    (tmp_path / "q.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "task.yaml").write_text(TASK.replace("QUESTIONS", str(tmp_path / "q.jsonl")))
    command("hlwq", "bench", q5_path, "--tasks", tmp_path / "task.yaml", "-o", "out.json", "-o", "out.md", cwd=tmp_path)
    scores = {s["metric"]: s for s in json.loads((tmp_path / "out.json").read_text())["tasks"]}

    right = {"acc": 0, "acc_norm": 0}
    for question, choices, label in QUESTIONS:
        totals = [by_hand(q5, f"Question: {question}\nAnswer:", f" {choice}") for choice in choices]
        right["acc"] += max(range(2), key=lambda i: totals[i]) == label
        right["acc_norm"] += max(range(2), key=lambda i: totals[i] / len(choices[i])) == label
    for metric, n in right.items():
        assert scores[metric]["value"] == n / len(QUESTIONS)
        assert scores[metric]["task"] == "colours_and_sums" and scores[metric]["samples"] == len(QUESTIONS)
        assert scores[metric]["fewshot"] == 0 and scores[metric]["version"] == 3
    assert "| colours_and_sums | acc |" in (tmp_path / "out.md").read_text()

    limited = command("hlwq", "bench", q5_path, "--tasks", tmp_path / "task.yaml", "--limit", 1, "--json").stdout
    assert {s["samples"] for s in json.loads(limited)["tasks"]} == {1}
    missing = command("polarquant", "bench", q5_path, "--eval-tasks", "no_such_task", code=1).stderr
    assert "no task 'no_such_task'" in missing


def test_scores_of_the_harness(monkeypatch):
    from hlwq.tasks import scores_of

    results = {
        "results": {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,strict": 1, "f1_stderr,strict": "N/A"}},
        "n-shot": {"t": 5}, "n-samples": {"t": {"original": 9, "effective": 4}}, "versions": {"t": 2.0},
    }  # fmt: skip
    acc, f1 = scores_of(results)
    common = {"task": "t", "fewshot": 5, "samples": 4, "version": 2.0}
    assert acc == {**common, "metric": "acc", "filter": "none", "value": 0.5, "stderr": 0.1}
    assert f1 == {**common, "metric": "f1", "filter": "strict", "value": 1.0, "stderr": None}
