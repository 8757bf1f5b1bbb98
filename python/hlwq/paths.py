"""Where a model is: the one place that turns what people call a model into a path."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Union

from . import _core
from .errors import NotFoundError

#: Told (done, total, what is being done).
Progress = Callable[[int, int, str], object]
ModelName = Union[str, "os.PathLike[str]"]

_log = logging.getLogger("hlwq")


def resolve_model(model: ModelName, *, progress: Progress | None = None) -> str:
    """The absolute path of a model directory or .gguf file.

    Where there is no such path, ``owner/name[@revision][/sub]`` is a repository of the Hugging Face Hub: found in the
    shared cache, or downloaded into it (progress counts bytes). Raises NotFoundError, DeniedError, NetworkError ...
    """
    name = os.fspath(model)
    path = os.path.expanduser(name)
    if os.path.exists(path):
        return os.path.abspath(path)
    if not _core.is_repository(name.encode()):
        raise NotFoundError(
            f"{name}: there is no such file or directory; a model is a directory with safetensors, "
            "an HLWQ checkpoint, a .gguf file or a repository, owner/name"
        )
    found, notes = _core.pull(name.encode(), progress)
    for note in notes:
        _log.info("%s", note)
    return found
