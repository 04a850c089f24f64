"""Ctrl-C, SIGTERM and SIGHUP as ``KeyboardInterrupt``, raised where it does no harm."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

# SIGHUP does not exist on Windows, and SIGBREAK (Ctrl-Break) elsewhere.
_NAMES = ("SIGTERM", "SIGHUP", "SIGBREAK")
_TERMINATING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))

_Handler = Callable[[int, FrameType | None], None]


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """The exit code that shells expect after a signal: 130 after Ctrl-C, 143 after ``kill``."""
    return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise ``KeyboardInterrupt``.

    Leaves signals alone that already have a handler or are ignored, as under ``nohup``.
    """
    numbers = [number for number in _TERMINATING if signal.getsignal(number) is signal.SIG_DFL]
    with _handling(numbers, _raise_interrupt):
        yield


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Defers the first signal until the yielded function is called, which then raises ``KeyboardInterrupt``.

    A second signal raises at once.
    """
    deferred: list[int] = []

    def defer(number: int, _: FrameType | None) -> None:
        if deferred:
            raise KeyboardInterrupt(number)
        deferred.append(number)

    def check() -> None:
        if deferred:
            raise KeyboardInterrupt(deferred[0])

    numbers = [
        number
        for number in (signal.SIGINT, *_TERMINATING)
        if signal.getsignal(number) in (signal.default_int_handler, _raise_interrupt)
    ]
    with _handling(numbers, defer):
        yield check


def _raise_interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


@contextmanager
def _handling(numbers: Sequence[int], handler: _Handler) -> Iterator[None]:
    # Python allows only the main thread to set handlers.
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers} if in_main_thread else {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
