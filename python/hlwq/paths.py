"""Where a model is: the one place that turns what people call a model into a path."""

from __future__ import annotations

import os

from .errors import NotFoundError


def resolve_model(model: str | os.PathLike[str]) -> str:
    """The absolute path of a model directory or .gguf file. Raises NotFoundError that says what to do."""
    path = os.path.abspath(os.path.expanduser(os.fspath(model)))
    if not os.path.exists(path):
        raise NotFoundError(
            f"{os.fspath(model)}: there is no such file or directory; a model is a directory with safetensors, "
            "an HLWQ checkpoint or a .gguf file"
        )
    return path
