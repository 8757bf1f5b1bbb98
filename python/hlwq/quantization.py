"""A model into an HLWQ checkpoint."""

from __future__ import annotations

import json
import logging
import os
from typing import Any, Union

from . import _core
from .errors import InvalidArgumentError
from .paths import ModelName, Progress, resolve_model

_log = logging.getLogger("hlwq")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(size: int | str) -> int:
    """Bytes: 19_900_000_000, "19.9GB", "800 MB" or "15GiB"."""
    if isinstance(size, int):
        return size
    number = size.rstrip("BbGgIiKkMm ")
    try:
        return int(float(number) * _UNITS[size[len(number) :].strip().upper()])
    except (ValueError, KeyError):
        raise InvalidArgumentError(f"a size is a number and a unit, such as 19.9GB or 15GiB, not {size!r}") from None


def quantize(
    source: ModelName,
    output: Union[str, os.PathLike[str]],
    *,
    bits: int | None = None,
    policy: Union[str, os.PathLike[str], None] = None,
    lags: int | None = None,
    bpw: float | None = None,
    size: int | str | None = None,
    sensitivity: Union[str, os.PathLike[str], None] = None,
    write_policy: Union[str, os.PathLike[str], None] = None,
    calibrate: Union[str, os.PathLike[str], None] = None,
    calibration_tokens: int | None = None,
    layout: str = "native",
    codebook: str = "converged",
    norm: str = "corrected",
    pad: bool = False,
    replace: bool = False,
    base_model: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Quantises a model directory or .gguf file into the directory ``output``, which appears whole or not at all.

    Without further options: 5 bits, embedding and lm_head 6. The options are those of ``hlwq quantize`` (docs/cli.md):

    bits: one width, 2 to 8. policy: a name ("q4-l2", "published") or a .json file of rules. lags: 1 to 3.
    bpw: bits per weight on average, or size: bytes of all tensor data (19_900_000_000 or "19.9GB"): widths are chosen
    by measured sensitivity, kept in the file ``sensitivity``; ``write_policy`` saves the choice.
    calibrate: "builtin" or a text or JSON file to round by, of which ``calibration_tokens`` are used (32768).
    device: "cuda" finds the same codes on a GPU.
    progress: called with (done, total, stage); the stage "quantizing" counts bytes of the source.

    Returns what came out: ``tensors`` (name, bits, mse, cosine ...), ``bytes_in``, ``bytes_out``, ``bits_per_weight``,
    ``seconds``. Raises InvalidArgumentError, UnsupportedError for a model that is quantised already, NoSpaceError,
    DeviceError ... Ctrl-C leaves nothing behind.
    """

    def path(value: Union[str, os.PathLike[str], None]) -> str | None:
        return None if value is None else os.fspath(value)

    found = resolve_model(source, progress=progress)
    request = {
        "model": found,
        "out": os.path.abspath(os.path.expanduser(os.fspath(output))),
        "bits": bits,
        "policy": path(policy),
        "lags": lags,
        "bpw": bpw,
        "size": None if size is None else parse_size(size),
        "sensitivity": path(sensitivity),
        "write_policy": path(write_policy),
        "calibrate": path(calibrate),
        "calibration_tokens": calibration_tokens,
        "layout": layout,
        "codebook": codebook,
        "norm": norm,
        "pad": pad,
        "replace": replace,
        "base_model": base_model or _repository(os.fspath(source)),
        "device": device,
        "threads": threads_wanted(threads),
    }
    result, notes = _core.quantize(json.dumps(request).encode(), progress)
    for note in notes:
        _log.info("%s", note)
    return dict(json.loads(result))


def _repository(name: str) -> str | None:
    """The "owner/name" of a source that is no path."""
    if os.path.exists(os.path.expanduser(name)):
        return None
    return "/".join(name.removeprefix("hf://").split("@")[0].split("/")[:2])


def threads_wanted(threads: int | None) -> int | None:
    """The number that was asked for, or HLWQ_THREADS."""
    text = os.environ.get("HLWQ_THREADS")
    if threads is not None or not text:
        return threads
    if not text.isdecimal():
        raise InvalidArgumentError(f"HLWQ_THREADS is {text!r}, not a number of threads")
    return int(text)
