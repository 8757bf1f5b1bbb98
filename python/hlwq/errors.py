"""Every failure of the library is an ``Error``; what is natural in Python to catch, it is as well."""


class Error(Exception):
    """Base of all errors. The message says what was wrong, where, and what to do about it."""


class InvalidArgumentError(Error, ValueError):
    """What was asked for makes no sense."""


class InvalidFileError(Error, ValueError):
    """A file is truncated, malformed or inconsistent."""


class UnsupportedError(Error, NotImplementedError):
    """Valid, but this build or this model does not do it."""


class NotFoundError(Error, FileNotFoundError):
    """A file, or a part of a model, is missing."""


class FileAccessError(Error, OSError):
    """The operating system refused to read or write."""


class OutOfMemoryError(Error, MemoryError):
    """There is not enough memory for what was asked for."""


class CancelledError(Error):
    """Stopped on request, by ``Stream.close()`` for one. Ctrl-C is KeyboardInterrupt, as everywhere."""


class ContextFullError(Error, ValueError):
    """The text does not fit into the context; load the model with a larger ``ctx``."""


class DeviceError(Error, RuntimeError):
    """A GPU call failed, or there is no such GPU."""


class DeniedError(Error, PermissionError):
    """A server wants a token, or one with more rights."""


class NetworkError(Error, ConnectionError):
    """No connection, or a server that fails."""


class NoSpaceError(Error, OSError):
    """The disk is full."""
