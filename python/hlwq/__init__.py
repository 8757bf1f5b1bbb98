"""Language models from HLWQ codes.

    model = hlwq.Model.from_pretrained("model-Q5")
    print(model.generate("Why is the sky blue?"))
"""

from ._core import version as __version__
from .answer import Answer, Event, Stream
from .errors import (
    CancelledError,
    ContextFullError,
    DeniedError,
    DeviceError,
    Error,
    FileAccessError,
    InvalidArgumentError,
    InvalidFileError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    OutOfMemoryError,
    UnsupportedError,
)
from .images import ImageLike
from .model import Messages, Model
from .quantization import quantize
from .tokenizer import Ids, Tokenizer

__all__ = [
    "Answer", "CancelledError", "ContextFullError", "DeniedError", "DeviceError", "Error", "Event", "FileAccessError", "Ids",
    "ImageLike", "InvalidArgumentError", "InvalidFileError", "Messages", "Model", "NetworkError",
    "NoSpaceError", "NotFoundError",
    "OutOfMemoryError", "Stream", "Tokenizer", "UnsupportedError", "__version__", "quantize",
]  # fmt: skip
