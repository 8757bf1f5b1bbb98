"""A model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

import numpy as np
import numpy.typing as npt

from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from . import _core

#: Token ids: a sequence of int, or a one-dimensional array of integers.
Ids = Union[Sequence[int], "npt.NDArray[np.integer]"]


def id_array(ids: Ids) -> npt.NDArray[np.int32]:
    """Ids as the contiguous int32 array that the engine takes."""
    array = np.asarray(ids)
    if array.size == 0:
        array = array.astype(np.int32)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InvalidArgumentError(f"token ids are one sequence of integers, not {array.dtype} {list(array.shape)}")
    if array.size and (array.min() < 0 or array.max() > np.iinfo(np.int32).max):
        raise InvalidArgumentError("a token id is negative or far too large")
    return np.ascontiguousarray(array, np.int32)


class Tokenizer:
    """Text to ids and back, as the PyPI package ``tokenizers`` does it."""

    def __init__(self, core: _core.Model) -> None:
        self._core = core

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of a text.

        ``add_special`` adds what the tokenizer puts around a text (BOS); ``parse_special`` lets special tokens
        that the text spells out count as such: leave it off for text of strangers.
        """
        return self._core.encode(text.encode(), add_special, parse_special)

    def decode(self, ids: Ids | int, *, skip_special: bool = True) -> str:
        """Text of ids. Bytes that are no whole character become U+FFFD."""
        return self._core.decode(id_array([ids] if isinstance(ids, int) else ids), skip_special)

    def __len__(self) -> int:
        """The highest id + 1."""
        return self._core.token_count

    def token(self, token_id: int) -> str:
        """The vocabulary's spelling of an id; "" where there is none."""
        return self._core.token(token_id)

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, or None."""
        found = self._core.token_id(token.encode())
        return found if found >= 0 else None

    def is_special(self, token_id: int) -> bool:
        return self._core.is_special(token_id)

    @property
    def bos_id(self) -> int | None:
        """The token that texts begin with, where the model has one."""
        return self._core.bos if self._core.bos >= 0 else None

    @property
    def stop_ids(self) -> list[int]:
        """The tokens that end an answer."""
        return self._core.stop_ids
