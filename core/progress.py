"""Callback that reports how far a long computation is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total). May raise to cancel."""
