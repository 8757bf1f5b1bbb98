"""What a model answers: the whole of it, or piece by piece."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import Error

if TYPE_CHECKING:
    from . import _core


class Answer(str):
    """The text of an answer: a ``str`` that also knows how it came about.

    ``thinking``: the model's thoughts, apart from the text. ``tool_calls``: ``[{"id", "type": "function",
    "function": {"name", "arguments": dict}}]``. ``finish_reason``: "stop", "tool_calls", "length" or
    "cancelled". ``ids``: every token that was sampled. ``message``: append it to the conversation to go on.
    ``logprobs``: where asked for, one ``{"id", "logprob", "top": [[id, logprob]...]}`` a token.
    """

    details: dict[str, Any]

    def __new__(cls, details: dict[str, Any]) -> Answer:
        answer = super().__new__(cls, details["text"])
        answer.details = details
        return answer

    def __reduce__(self) -> tuple[Any, ...]:
        return (Answer, (self.details,))

    @property
    def text(self) -> str:
        return str.__str__(self)

    @property
    def thinking(self) -> str:
        return str(self.details["thinking"])

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        return list(self.details["tool_calls"])

    @property
    def message(self) -> dict[str, Any]:
        return dict(self.details["message"])

    @property
    def ids(self) -> list[int]:
        return list(self.details["ids"])

    @property
    def logprobs(self) -> list[dict[str, Any]]:
        return list(self.details["logprobs"])

    @property
    def finish_reason(self) -> str:
        return str(self.details["finish_reason"])

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, images included."""
        return int(self.details["prompt_tokens"])

    @property
    def seed(self) -> int:
        """Repeats this answer, with the same settings and threads."""
        return int(self.details["seed"])

    @property
    def timing(self) -> dict[str, float]:
        """``prefill_tokens`` and ``decode_tokens``, and the seconds they took: ``prefill_s``, ``decode_s``.

        Tokens that the last prompt had already are not read again, nor counted.
        """
        return dict(self.details["timing"])


class Event(NamedTuple):
    """A piece of an answer: ``kind`` is "text", "thinking" or "tool_call" (whose ``text`` is JSON)."""

    kind: str
    text: str


class Stream(Iterator[str]):
    """Pieces of an answer's text as they are written; ``answer`` is the whole after the last one.

    The model goes on while nobody reads. ``close()``, or dropping the stream, stops it. Iterate ``events()``
    instead to see thoughts and tool calls too.
    """

    def __init__(self, job: _core.Job, done: Callable[[], None]) -> None:
        self._job = job
        self._done = done
        self._answer: Answer | None = None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        while True:
            event = self._next()
            if event is None:
                raise StopIteration
            if event.kind == "text":
                return event.text

    def events(self) -> Iterator[Event]:
        """Everything that comes, in order, text included."""
        while (event := self._next()) is not None:
            yield event

    def _next(self) -> Event | None:
        if self._answer is not None:
            return None
        event = self._job.next()
        if event is not None:
            return Event(*event)
        self._finish()
        return None

    def _finish(self) -> None:
        self._answer = Answer(json.loads(self._job.result()))
        self._done()

    @property
    def answer(self) -> Answer:
        """The whole answer; reads what is left first."""
        while self._next() is not None:
            pass
        assert self._answer is not None
        return self._answer

    def close(self) -> None:
        """Stops the model. ``answer`` is then what was written, with ``finish_reason`` "cancelled"."""
        self._job.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        try:
            self.answer  # noqa: B018 - waits, so that the model is free for the next call
        except Error:
            pass
