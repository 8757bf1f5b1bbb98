"""PolarQuantModel: the published class, on hlwq.Model."""

from __future__ import annotations

import logging
import os
from typing import Any

import hlwq

_log = logging.getLogger("polarengine_vllm")


class PolarQuantModel:
    """``from_pretrained`` and ``generate`` as published.

    Other than there: the weights stay in codes; missing ones are an error; the cache is compressed in every step,
    also with several heads; and a prompt goes through the model's chat template (``raw=True`` continues it as it is).

    ``model`` is the hlwq.Model, ``tokenizer`` its tokenizer (None where the model has none).
    """

    def __init__(self, model: hlwq.Model) -> None:
        self.model = model
        self.tokenizer: hlwq.Tokenizer | None
        try:
            self.tokenizer = model.tokenizer
        except hlwq.UnsupportedError:
            self.tokenizer = None

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | os.PathLike[str],
        *,
        device_map: Any = "auto",
        dtype: Any = None,
        torch_dtype: Any = None,
        kv_cache_nbits: int | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> PolarQuantModel:
        """Loads a model; kv_cache_nbits: 2, 3 or 4 bits for the key/value cache (default: BF16).

        device_map: "auto", "cpu", "cuda" or "cuda:N". Further options are those of hlwq.Model.from_pretrained.
        """
        if trust_remote_code:
            _log.warning("trust_remote_code: no code of a model is ever run")
        if dtype is not None or torch_dtype is not None:
            _log.warning("dtype: the model computes on its codes, in its own precision")
        if isinstance(device_map, dict):
            if set(device_map) != {""}:
                raise hlwq.UnsupportedError("device_map: 'auto', 'cpu', 'cuda' or 'cuda:N'; layers are not placed by hand")
            device_map = device_map[""]
        if isinstance(device_map, int):
            device_map = f"cuda:{device_map}"
        device = None if device_map in (None, "auto") else str(device_map)
        return cls(hlwq.Model.from_pretrained(model_id, kv_bits=kv_cache_nbits, device=device, **options))

    def generate(self, prompt: str, *, max_new_tokens: int = 128, do_sample: bool | None = None, **options: Any) -> str:
        """The answer's text, without the prompt. do_sample=False takes the likeliest token; other options as in
        hlwq.Model.generate."""
        if do_sample is False:
            options["temperature"] = 0
        return self.model.generate(prompt, max_new_tokens, **options).text
