"""The limit on requests per minute."""

import threading
import time

import pytest

from instructbrush.core.errors import StorageError
from instructbrush.core.generation.language import rate as rate_module
from instructbrush.core.generation.language.rate import RateLimit


@pytest.mark.parametrize("shared", [True, False])
def test_gives_each_request_its_turn(tmp_path, shared):
    rates = (
        [RateLimit(1200, tmp_path / "a" / "m.rate") for _ in range(3)] if shared else [RateLimit(1200)] * 3
    )
    moments: list[tuple[float, int]] = []

    def work(number):
        for _ in range(4):
            rates[number].wait()
            moments.append((time.monotonic(), number))

    start = time.monotonic()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = sorted(moment for moment, _ in moments)
    # 12 requests, 50 ms apart; a thread may wake late, but never early.
    assert len(times) == 12 and times[-1] - start >= 11 * 0.05 - 0.01
    for number, moment in enumerate(times):
        assert moment - start >= number * 0.05 - 0.01
    # No thread waits for all turns of another.
    assert {number for _, number in sorted(moments)[:8]} == {0, 1, 2}


def test_turns_far_ahead_count(tmp_path, monkeypatch):
    """As with one request in two minutes and many processes."""
    slept: list[float] = []
    monkeypatch.setattr(rate_module.time, "sleep", slept.append)
    for _ in range(40):
        RateLimit(0.5, tmp_path / "m.rate").wait()
    assert [round(seconds, -1) for seconds in slept] == [120 * number for number in range(40)]


def test_without_a_limit_nothing_waits(tmp_path):
    rate, start = RateLimit(None, tmp_path / "m.rate"), time.monotonic()
    for _ in range(20):
        rate.wait()
    assert time.monotonic() - start < 5.0


def test_a_hold_makes_all_wait(tmp_path):
    first, second = RateLimit(None, tmp_path / "m.rate"), RateLimit(None, tmp_path / "m.rate")
    start = time.monotonic()
    first.hold(0.3)
    second.wait()
    assert 0.29 <= time.monotonic() - start < 5.0


@pytest.mark.parametrize(
    "content", [b"", b"x", b"[1]", b"\xff", b"1e999", b"99999999999.0", b"NaN", b"1" * 10_000]
)
def test_a_damaged_or_absurd_moment_limits_nothing(tmp_path, content):
    (tmp_path / "m.rate").write_bytes(content)
    rate, start = RateLimit(600, tmp_path / "m.rate"), time.monotonic()
    rate.wait()
    assert time.monotonic() - start < 5.0
    rate.wait()
    assert time.monotonic() - start >= 0.09


def test_says_that_the_file_cannot_be_written(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(StorageError, match="'m.rate' cannot be written"):
        RateLimit(60, tmp_path / "a" / "m.rate").wait()
