"""The web console: pages that show what the emulator has and does, and change nothing."""

from .pages import Console

__all__ = ["Console"]
