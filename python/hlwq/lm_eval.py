"""hlwq models for EleutherAI's lm-evaluation-harness (pip install lm-eval).

    import lm_eval
    from hlwq.lm_eval import HarnessModel

    lm_eval.simple_evaluate(model=HarnessModel("model-Q5"), tasks=["hellaswag"])
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from .model import Model
from .paths import ModelName

try:
    import lm_eval
    from lm_eval.api.model import LM
except ImportError as error:
    raise ImportError("the tasks need lm-evaluation-harness: pip install lm-eval") from error


class HarnessModel(LM):  # type: ignore[misc]
    """One model as the harness asks it: log-likelihoods and greedy continuations, one request after another.

    Texts longer than the context lose their beginning, as is the harness's custom.
    """

    def __init__(self, model: Model | ModelName, *, add_bos: bool | None = None, **options: Any) -> None:
        """add_bos: texts begin with the BOS even where the tokenizer does not say so; Gemma needs it."""
        super().__init__()
        self.model = model if isinstance(model, Model) else Model.from_pretrained(model, **options)
        info = self.model.info()
        self.context = int(info["context"])
        bos = self.model.tokenizer.bos_id
        wanted = info["family"].startswith("gemma") if add_bos is None else add_bos
        self._bos = [bos] if wanted and bos is not None else []

    def _begin(self, ids: list[int]) -> list[int]:
        return ids if ids[: len(self._bos)] == self._bos else self._bos + ids

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        answers = []
        for request in self._watched(requests, disable_tqdm):
            before, after = self.model.token_pair(*request.args, parse_special=True)
            answers.append(self._score(self._begin(before), after))
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, in windows that do not overlap; each token counts once, after what its window has."""
        totals = []
        for request in self._watched(requests, disable_tqdm):
            start, ids = self.model.token_pair("", request.args[0])
            total, last = 0.0, start[-1]
            for begin in range(0, len(ids), self.context):
                window = ids[begin : begin + self.context]
                total += self._score([last], window)[0]
                last = window[-1]
            totals.append(total)
        return totals

    def _score(self, before: list[int], after: list[int]) -> tuple[float, bool]:
        # The last token is only predicted, so one more than the context goes in.
        ids = (before + after)[-(self.context + 1) :]
        start = max(1, len(ids) - len(after))
        logprobs, likeliest = self.model.token_logprobs(ids, start=start)
        return float(logprobs.sum()), bool(likeliest.all())

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        answers = []
        for request in self._watched(requests, disable_tqdm):
            context, wishes = request.args
            stop = wishes.get("until") or []
            count = int(wishes.get("max_gen_toks", 256))
            sampled = wishes.get("do_sample", False)
            options = {k: wishes[k] for k in ("top_k", "top_p", "min_p") if sampled and k in wishes}
            options["temperature"] = wishes.get("temperature", 1.0) if sampled else 0
            ids = self.model.tokenizer.encode(context, parse_special=True)
            ids = self._begin(ids)[-max(1, self.context - count) :]
            answers.append(str(self.model.generate(ids, count, stop=stop, **options)))
        return answers

    @property
    def tokenizer_name(self) -> str:
        return self.model.path.replace(os.sep, "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text = self.model.chat_prompt(chat_history, add_generation_prompt=add_generation_prompt)
        bos = self.model.tokenizer.bos_id
        # The harness's prompts are encoded with a BOS of their own.
        return text if bos is None else text.removeprefix(self.model.tokenizer.token(bos))

    @staticmethod
    def _watched(requests: Sequence[Any], quiet: bool) -> Iterable[Any]:
        for done, request in enumerate(requests):
            if not quiet and sys.stderr.isatty():
                print(f"\r{done} of {len(requests)} requests", end="", file=sys.stderr)
            yield request
        if not quiet and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)
