"""The pacer: deliveries rest while leads arrive on a busy loop, and only then."""

import time

import pytest

from jobs.pacer import BUSY, MAX_REST_SECONDS, Pacer, next_rest


class Processor:
    """A monotonic clock and a thread time that the test steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.used = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "thread_time", lambda: self.used)
        self.pacer = Pacer(lambda: 0.0)

    def work(self, seconds: float, busy: float, leads: bool = True) -> float:
        """Step the clock so far, busy for this part of it. Return the pacer's rest at the end."""
        for _ in range(round(seconds / 0.05)):
            self.now += 0.0501
            self.used += 0.0501 * busy
            if leads:
                self.pacer.lead_committed()
            rest = self.pacer.rest_seconds()
        return rest


def test_rests_double_while_leads_keep_the_loop_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor = Processor(monkeypatch)
    assert [processor.work(0.05, 1.0) for _ in range(6)] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.2]
    assert processor.work(5, 1.0) == MAX_REST_SECONDS


def test_rests_shrink_once_the_loop_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = Processor(monkeypatch)
    processor.work(1, 1.0)
    rests = [processor.work(0.05, BUSY / 2) for _ in range(6)]
    assert rests == sorted(rests, reverse=True) and rests[-1] == 0


def test_no_rest_without_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = Processor(monkeypatch)
    assert processor.work(1, 1.0, leads=False) == 0
    processor.work(1, 1.0)
    assert processor.work(0.2, 1.0, leads=False) == 0


def test_rest_has_an_upper_limit() -> None:
    rest = 0.0
    for _ in range(100):
        rest = next_rest(rest, 1.0)
    assert rest == MAX_REST_SECONDS
