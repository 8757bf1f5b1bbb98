"""A model that is loaded and ready to run."""

from __future__ import annotations

import json
import logging
import os
import secrets
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, overload

import numpy as np
import numpy.typing as npt

from . import _core
from .answer import Answer, Stream
from .errors import InvalidArgumentError, UnsupportedError
from .images import ImageLike, prepare_messages
from .paths import ModelName, resolve_model
from .quantization import quantize, threads_wanted
from .tokenizer import Ids, Tokenizer, id_array

_log = logging.getLogger("hlwq")

#: A conversation as OpenAI and transformers write it, or one user message as text.
Messages = Union[str, Sequence[Mapping[str, Any]]]


def _request(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise InvalidArgumentError(f"{type(value).__name__} cannot be passed to the model")


class Model:
    """One model. Calls from several threads are answered one after another.

    Calls release the GIL. Ctrl-C stops what runs, at the end of the token or of the piece of prompt at hand, and raises
    KeyboardInterrupt; the model stays usable. What consecutive prompts have in common is read once.

    A model must be loaded in the process that uses it: after a fork, load it in the child.
    """

    def __init__(self, core: _core.Model, path: str) -> None:
        self._core = core
        self.path = path
        # At the end of the interpreter too, before it takes down what running work could need.
        self._end = weakref.finalize(self, core.close)
        self._tell_notes()

    @classmethod
    def from_pretrained(
        cls,
        model: ModelName,
        *,
        kv_bits: int | None = None,
        device: str | None = None,
        ctx: int | None = None,
        threads: int | None = None,
        gpu_layers: int | None = None,
        isa: str | None = None,
        vision: bool = True,
        image_tokens: int | Literal["auto"] | None = None,
    ) -> Model:
        """Loads a model directory (safetensors), an HLWQ checkpoint, a .gguf file or a repository, "owner/name".

        kv_bits: bits of the key/value cache: 16 (BF16, the default), 32, or codes of 4, 3 or 2.
        device: "cpu", "cuda" or "cuda:N"; without it a GPU where there is one (HLWQ_DEVICE).
        ctx: context in tokens; without it the model's own, as far as memory allows.
        threads: 0 or None is every processor (HLWQ_THREADS).
        gpu_layers: layers that run on the GPU, the last ones; without it as many as fit.
        isa: force "scalar", "avx2" or "avx512" kernels (HLWQ_ISA).
        vision: False leaves the image encoder out, which saves its working memory.
        image_tokens: 70, 140, 280, 560 or 1120 tokens for an image, or "auto" (by its size and detail).

        Raises NotFoundError, InvalidFileError, UnsupportedError for a model that this engine does not know,
        InvalidArgumentError, DeviceError, OutOfMemoryError.
        """
        path = resolve_model(model)
        if ctx is not None and ctx < 1:
            raise InvalidArgumentError("ctx is at least 1")
        if gpu_layers is not None and gpu_layers < 0:
            raise InvalidArgumentError("gpu_layers must not be negative")
        options = {
            "kv_bits": kv_bits,
            "device": device or os.environ.get("HLWQ_DEVICE"),
            "ctx": ctx,
            "threads": threads_wanted(threads),
            "gpu_layers": gpu_layers,
            "isa": isa or os.environ.get("HLWQ_ISA"),
            "vision": vision,
            "image_tokens": image_tokens,
        }
        return cls(_core.Model(os.fsencode(path), _request(options)), path)

    # -- writing ---------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str | Ids,
        max_new_tokens: int | None = None,
        *,
        raw: bool = False,
        images: Sequence[ImageLike] | None = None,
        system: str | None = None,
        **options: Any,
    ) -> Answer:
        """Answers one prompt; the Answer is a ``str``.

        A text goes through the model's chat template, where it has one, as with ``hlwq run``; ``raw`` continues the
        text as it is, and token ids are fed untouched.

        max_new_tokens: at most so many; without it until the model ends or the context is full.
        images: shown before the text (see ``hlwq.ImageLike``).
        options: temperature (0: always the likeliest token), top_k, top_p, min_p, repetition_penalty,
        presence_penalty, frequency_penalty, logit_bias ({id: bias}), seed (without it random), stop (a text or
        several, ends before it), ignore_eos, logprobs (K: report the K likeliest of each token), and for
        chats tools, thinking (True or False), thinking_budget (tokens) and template (further variables). Sampling
        starts from the model's generation_config.json.

        Raises ContextFullError when prompt and max_new_tokens do not fit, UnsupportedError for images on a model
        that takes none, InvalidArgumentError.
        """
        return self._run(*self._prompt_request(prompt, max_new_tokens, raw, images, system, options))

    def stream(
        self,
        prompt: str | Ids,
        max_new_tokens: int | None = None,
        *,
        raw: bool = False,
        images: Sequence[ImageLike] | None = None,
        system: str | None = None,
        **options: Any,
    ) -> Stream:
        """As ``generate``, piece by piece: iterate for the text, then see ``.answer``."""
        return self._start(*self._prompt_request(prompt, max_new_tokens, raw, images, system, options))

    @overload
    def chat(
        self,
        messages: Messages,
        max_new_tokens: int | None = None,
        *,
        images: Sequence[ImageLike] | None = None,
        stream: Literal[False] = False,
        **options: Any,
    ) -> Answer: ...

    @overload
    def chat(
        self,
        messages: Messages,
        max_new_tokens: int | None = None,
        *,
        images: Sequence[ImageLike] | None = None,
        stream: Literal[True],
        **options: Any,
    ) -> Stream: ...

    def chat(
        self,
        messages: Messages,
        max_new_tokens: int | None = None,
        *,
        images: Sequence[ImageLike] | None = None,
        stream: bool = False,
        **options: Any,
    ) -> Answer | Stream:
        """The next message of a conversation, by the model's own chat template.

        messages: ``[{"role": "system" | "user" | "assistant" | "tool", "content": ...}]``; a content is a text or a
        list of parts, ``{"type": "text", "text"}``, ``{"type": "image", "image": ...}`` or
        ``{"type": "image_url", "image_url": {"url": path or data: URL}}``. images go to the last user message.
        stream: True gives a Stream. Options as in ``generate``.

        Append ``answer.message`` and the next message to go on: what was read stays read.
        """
        self._need_template()
        prepared, files = prepare_messages(messages, images)
        request = {"messages": prepared, **self._options(max_new_tokens, options, chat=True)}
        return self._start(request, files) if stream else self._run(request, files)

    # -- measuring -------------------------------------------------------------------------------------------

    def logits(self, ids: Ids, *, start: int = 0) -> npt.NDArray[np.float32]:
        """Logits [len(ids) - start, vocab] (float32) of the token that follows each of ids[start:].

        A row has vocab x 4 bytes: ask for what you need. Raises ContextFullError beyond the context.
        """
        try:
            return self._core.logits(id_array(ids), start)
        finally:
            self._tell_notes()

    def loglikelihood(
        self, context: str | Ids, continuation: str | Ids, *, add_special: bool = True
    ) -> tuple[float, bool]:
        """Log-probability (nats) of a continuation after a context, and whether greedy decoding would write it.

        Texts are cut into tokens as lm-evaluation-harness does it: together, spaces at the end of the context
        counting to the continuation. An empty context is the BOS. Contexts that calls share are read once.
        """
        before, after = self.token_pair(context, continuation, add_special=add_special)
        logprobs, likeliest = self.token_logprobs([*before, *after], start=len(before))
        return float(logprobs.sum()), bool(likeliest.all())

    def token_logprobs(
        self, ids: Ids, *, start: int = 1
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Log-probabilities [len(ids) - start] (nats) of ids[start:], each after all before it, and whether each
        is the likeliest token at its place."""
        try:
            return self._core.score(id_array(ids), start)
        finally:
            self._tell_notes()

    def token_pair(
        self,
        context: str | Ids,
        continuation: str | Ids,
        *,
        add_special: bool = True,
        parse_special: bool = False,
    ) -> tuple[list[int], list[int]]:
        """The tokens of a context and of its continuation, as ``loglikelihood`` cuts them.

        add_special and parse_special as in ``Tokenizer.encode``.
        """
        if isinstance(context, str) and isinstance(continuation, str):
            stripped = context.rstrip()
            continuation = context[len(stripped) :] + continuation
            special = {"add_special": add_special, "parse_special": parse_special}
            whole = self.tokenizer.encode(stripped + continuation, **special)
            before = self.tokenizer.encode(stripped, **special) if stripped else []
            if not stripped and self._core.bos >= 0 and whole[:1] == [self._core.bos]:
                whole = whole[1:]
            after = whole[len(before) :]
        elif isinstance(context, str) or isinstance(continuation, str):
            raise InvalidArgumentError("context and continuation are both text or both ids")
        else:
            before, after = id_array(context).tolist(), id_array(continuation).tolist()
        if not before:
            bos = self._core.bos
            if bos < 0:
                bos = min(self._core.stop_ids, default=-1)
            if bos < 0:
                raise InvalidArgumentError("the context is empty, and the model has no BOS to stand for it")
            before = [bos]
        if not after:
            raise InvalidArgumentError("the continuation has no tokens of its own")
        return before, after

    # -- facts -----------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises UnsupportedError for a model that came without one."""
        if not self._core.has_tokenizer:
            raise UnsupportedError(f"{self.path} has no tokenizer; pass token ids")
        return Tokenizer(self._core)

    def chat_prompt(self, messages: Messages, **template: Any) -> str:
        """The text that the chat template makes of messages; further arguments are its variables."""
        self._need_template()
        prepared, _ = prepare_messages(messages, None)
        return self._core.prompt(_request({"messages": prepared, **self._template(template)}))

    def chat_ids(self, messages: Messages, **template: Any) -> list[int]:
        """Its token ids; text of messages never becomes a special token."""
        self._need_template()
        prepared, _ = prepare_messages(messages, None)
        return self._core.prompt_ids(_request({"messages": prepared, **self._template(template)}))

    def info(self) -> dict[str, Any]:
        """Facts: architecture, sizes (bytes), formats of the weights, context (tokens), memory plan, backend."""
        return dict(json.loads(self._core.info()))

    def memory(self, context: int, kv_bits: int | None = None) -> dict[str, int]:
        """Bytes at a context of so many tokens, nothing allocated: weights, kv, vision, scratch and total.

        kv_bits: of a cache other than this model's own.
        """
        return dict(json.loads(self._core.plan(context, kv_bits or 0)))

    def quantize(self, output: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
        """Quantises this model's files into a checkpoint; options and result as ``hlwq.quantize``."""
        return quantize(self.path, output, **options)

    def reset(self) -> None:
        """Forgets the conversation whose beginning is kept for the next prompt, and frees its memory."""
        self._core.reset()

    def close(self) -> None:
        """Stops what runs and frees the memory at once; without it that happens when the model is dropped."""
        self._end()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"hlwq.Model({self.path!r})"

    # -- within ----------------------------------------------------------------------------------------------

    def _prompt_request(
        self,
        prompt: str | Ids,
        max_new_tokens: int | None,
        raw: bool,
        images: Sequence[ImageLike] | None,
        system: str | None,
        options: dict[str, Any],
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        templated = isinstance(prompt, str) and not raw and (self._core.has_template or images is not None)
        if not templated:
            if images is not None or system is not None:
                raise InvalidArgumentError("images and system need the chat template: no ids, not raw")
            source = {"text": prompt} if isinstance(prompt, str) else {"ids": id_array(prompt).tolist()}
            if isinstance(prompt, str):
                self.tokenizer  # noqa: B018 - says so where there is none
            return {**source, **self._options(max_new_tokens, options, chat=False)}, {}
        self._need_template()
        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        prepared, files = prepare_messages(messages, images)
        return {"messages": prepared, **self._options(max_new_tokens, options, chat=True)}, files

    _SAMPLING = (
        "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
        "ignore_eos", "logprobs",
    )  # fmt: skip
    _CHAT = ("tools", "thinking", "thinking_budget", "template")

    def _options(self, max_new_tokens: int | None, options: dict[str, Any], chat: bool) -> dict[str, Any]:
        known = {*self._SAMPLING, "seed", "stop", "logit_bias", *(self._CHAT if chat else ("special",))}
        if unknown := sorted(set(options) - known):
            raise TypeError(f"unknown option {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if max_new_tokens is not None and max_new_tokens < 0:
            raise InvalidArgumentError("max_new_tokens must not be negative")
        stop = options.get("stop")
        seed = options.get("seed")
        request = {key: options[key] for key in (*self._SAMPLING, "special") if key in options}
        request["max_tokens"] = max_new_tokens
        request["stop"] = [stop] if isinstance(stop, str) else None if stop is None else list(stop)
        request["seed"] = secrets.randbits(32) if seed is None else seed
        if options.get("logit_bias"):
            request["logit_bias"] = [[int(k), float(v)] for k, v in options["logit_bias"].items()]
        if chat:
            request["thinking_budget"] = options.get("thinking_budget")
            request.update(self._template({k: options[k] for k in ("tools", "thinking", "template") if k in options}))
        return request

    @staticmethod
    def _template(options: dict[str, Any]) -> dict[str, Any]:
        options = dict(options)
        request = {"tools": options.pop("tools", None), "add_generation_prompt": options.pop("add_generation_prompt", True)}
        variables = {**(options.pop("template", None) or {})}
        thinking = options.pop("thinking", None)
        variables.update(options)
        if thinking is not None:
            # Some templates write the empty thought, which keeps a model from thinking, only when asked.
            variables.update(enable_thinking=bool(thinking), empty_thought=not thinking)
        return {**request, "template": variables or None}

    def _need_template(self) -> None:
        if not self._core.has_template:
            raise UnsupportedError(f"{self.path} has no chat template; use generate(prompt, raw=True)")

    def _start(self, request: dict[str, Any], files: dict[str, bytes]) -> Stream:
        return Stream(self._core.start(_request(request), files), self._tell_notes)

    def _run(self, request: dict[str, Any], files: dict[str, bytes]) -> Answer:
        try:
            return Answer(json.loads(self._core.start(_request(request), files).result()))
        finally:
            self._tell_notes()

    def _tell_notes(self) -> None:
        for note in self._core.take_notes():
            _log.warning("%s", note)
