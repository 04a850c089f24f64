"""Ctrl-C, and the signals by which a system ends a process, as one exception that comes when it does no harm."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What shells expect of a process that a signal ended: 130 after Ctrl-C, 143 after ``kill``."""
    return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


@contextmanager
def catching_signals() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise ``KeyboardInterrupt``, where nothing else was decided about them, as ``nohup`` does."""
    with _handling([number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL], _raise):
        yield


@contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Within it the first signal waits for a call of the function that is given, which raises ``KeyboardInterrupt`` then. A second one does not wait."""
    waiting: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if waiting:
            raise KeyboardInterrupt(number)
        waiting.append(number)

    def check() -> None:
        if waiting:
            raise KeyboardInterrupt(waiting[0])

    with _handling(
        [
            number
            for number in (signal.SIGINT, *_ENDING)
            if signal.getsignal(number) in (signal.default_int_handler, _raise)
        ],
        note,
    ):
        yield check


def _raise(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


@contextmanager
def _handling(numbers: list[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    # Only the main thread may decide about signals.
    before = (
        {number: signal.signal(number, handler) for number in numbers}
        if threading.current_thread() is threading.main_thread()
        else {}
    )
    try:
        yield
    finally:
        for number, each in before.items():
            signal.signal(number, each)
