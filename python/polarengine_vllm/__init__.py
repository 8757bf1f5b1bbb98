"""The published package's name for what hlwq does: ``PolarQuantModel``."""

from .model import PolarQuantModel

__all__ = ["PolarQuantModel"]
