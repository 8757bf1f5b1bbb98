"""Images of a conversation: whatever they come as, to bytes of an image file or a path that the engine reads."""

from __future__ import annotations

import base64
import binascii
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from .errors import InvalidArgumentError, UnsupportedError

if TYPE_CHECKING:
    import PIL.Image

#: A path, the bytes of a JPEG, PNG or WebP file, a PIL image, or an array [height, width] or
#: [height, width, 1, 3 or 4] of uint8 (grey, RGB, RGB and an alpha that is ignored).
ImageLike = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, "np.ndarray", "PIL.Image.Image"]


class ImageFiles:
    """Gives each image of a request a name; those in memory are passed along under it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def name(self, image: Any) -> str:
        if isinstance(image, (bytes, bytearray, memoryview)):
            return self._keep(bytes(image))
        if isinstance(image, np.ndarray):
            return self._keep(png(image))
        if isinstance(image, (str, os.PathLike)):
            return self._path(os.fspath(image))
        if hasattr(image, "convert") and hasattr(image, "size"):  # a PIL image; Pillow itself is not needed
            return self._keep(png(np.asarray(image.convert("RGB"))))
        raise InvalidArgumentError(
            "an image is a path, the bytes of an image file, a PIL image or a uint8 array, "
            f"not {type(image).__name__}"
        )

    def _path(self, path: str) -> str:
        if path.startswith("data:"):
            head, comma, data = path.partition(",")
            if not comma or not head.endswith(";base64"):
                raise InvalidArgumentError("an image's data: URL must be base64")
            try:
                return self._keep(base64.b64decode(data, validate=True))
            except binascii.Error as error:
                raise InvalidArgumentError(f"an image's data: URL is no base64: {error}") from None
        if path.startswith(("http://", "https://")):
            raise UnsupportedError(f"{path}: images are not downloaded; pass the file, or its bytes")
        return os.path.abspath(path.removeprefix("file://"))

    def _keep(self, data: bytes) -> str:
        name = f"image {len(self.files) + 1}"
        self.files[name] = data
        return name


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 pixels [height, width] or [height, width, 1, 3 or 4]."""
    colour = {1: 0, 3: 2, 4: 6}
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in colour or 0 in pixels.shape:
        raise InvalidArgumentError(
            "an image array is uint8 of shape [height, width] or [height, width, 1, 3 or 4], "
            f"not {pixels.dtype} {list(pixels.shape)}"
        )
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = pixels.reshape(height, width * channels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, colour[channels], 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _part(part: Any, files: ImageFiles) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        return {"type": "image", "path": files.name(part)}
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text"):
        return {"type": "text", "text": part.get("text", "")}
    if kind in ("image_url", "input_image"):
        url = part.get("image_url")
        if isinstance(url, Mapping):
            url = url.get("url")
        if url is None:
            raise InvalidArgumentError('a part {"type": "image_url"} needs {"image_url": {"url": ...}}')
        return {"type": "image", "path": files.name(url)}
    if kind == "image":
        for key in ("image", "path", "url"):
            if part.get(key) is not None:
                return {"type": "image", "path": files.name(part[key])}
        raise InvalidArgumentError('a part {"type": "image"} needs "image" or "path"')
    raise UnsupportedError(f"a message has a part of type {kind!r}; text and images are known")


def prepare_messages(
    messages: str | Sequence[Mapping[str, Any]], images: Sequence[ImageLike] | None
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Messages as the engine wants them, and the bytes of the images that are in memory.

    Further ``images`` go to the last user message, before its text.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if isinstance(messages, Mapping):
        raise InvalidArgumentError("messages is a list of messages, or a text; this is one message alone")
    files = ImageFiles()
    prepared: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidArgumentError('each message is {"role": ..., "content": ...}')
        message = dict(message)
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            message["content"] = [_part(part, files) for part in content]
        elif content is not None and not isinstance(content, str):
            raise InvalidArgumentError("a message's content is a text or a list of parts")
        prepared.append(message)
    if not prepared:
        raise InvalidArgumentError("there are no messages")
    if images is not None:
        if isinstance(images, (str, bytes, os.PathLike)) or not isinstance(images, Sequence):
            images = [images]
        _attach(prepared, [{"type": "image", "path": files.name(image)} for image in images])
    return prepared, files.files


def _attach(messages: list[dict[str, Any]], parts: list[dict[str, Any]]) -> None:
    for message in reversed(messages):
        if message["role"] == "user":
            content = message.get("content") or []
            text = [{"type": "text", "text": content}] if isinstance(content, str) else content
            message["content"] = parts + text
            return
    raise InvalidArgumentError("images go to the last user message, and there is none")
