"""Faults, and what one run of a fault found."""

import importlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

MODULES = (
    "crashes",
    "power",
    "disks",
    "mailing",
    "partnering",
    "refusals",
    "clocks",
    "clients",
    "hostile",
    "bodies",
    "upkeep",
    "logs",
    "failover",
    "outages",
)


class CannotTry(Exception):
    """This machine does not allow the fault. The message says why."""


@dataclass
class FaultRun:
    """One run of a fault: its parameters, and its findings."""

    folder: Path  # empty, and its own
    times: int  # how often the fault is tried, or its size
    mutant: str | None = None  # the defect put into the program, which the run must catch
    timed: bool = False  # whether a promise about time counts; on a busy machine it does not

    tried: int = 0
    lost: int = 0  # leads that were acknowledged and are not stored, or are stored in part
    duplicated: int = 0
    recovery: float | None = None  # seconds from the end of the fault until the server works as before
    recovery_by_clock: bool = False  # counted by the clock that the run steps, not by the wall clock
    seen: str = ""  # further measurements, for the table
    broken: list[str] = field(default_factory=list)  # promises that did not hold
    not_tried: str | None = None  # the reason

    def require(self, held: object, promise: str) -> None:
        """Note a promise as broken unless it held."""
        if not held and promise not in self.broken:
            self.broken.append(promise)

    def require_quick(self, seconds: float, most: float, promise: str) -> None:
        """Note a promise about time as broken if it took more than `most` seconds."""
        if self.timed:
            self.require(seconds <= most, f"{promise} within {most:g} s (took {seconds:.3f} s)")

    def recovered_since(self, moment: float) -> None:
        """Note the recovery time from this moment of `time.monotonic` until now; the longest counts."""
        self.recovery = max(self.recovery or 0.0, time.monotonic() - moment)

    def seeded_random(self) -> random.Random:
        """Return a generator that gives the same numbers in each run of this size."""
        return random.Random(f"{self.times}")

    def close(self, *, may_duplicate: bool) -> None:
        """Check the promises of every run."""
        self.require(self.tried > 0, "the fault was tried")
        self.require(self.recovery is not None, "the server recovered")
        self.judge_losses(may_duplicate=may_duplicate)

    def judge_losses(self, *, may_duplicate: bool) -> None:
        """Check the promises that count even for a run that failed half-way."""
        self.require(self.lost == 0, f"nothing is lost ({self.lost} were)")
        self.require(may_duplicate or self.duplicated == 0, f"nothing comes twice ({self.duplicated} did)")


def spread(times: int, most: int) -> list[int]:
    """Return at most so many different moments of 0 to `most` - 1, evenly spread, first and last included."""
    if times >= most:
        return list(range(most))
    return sorted({round(at * (most - 1) / (times - 1)) for at in range(times)})


RunFault = Callable[[FaultRun], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """A fault: how to run it, and the mutants that its run must catch."""

    name: str
    about: str
    run: RunFault
    short: int  # `times` in `make test`
    long: int  # `times` in `make faults`
    mutants: tuple[str, ...]
    may_duplicate: bool  # whether a mail may arrive twice, as after a crash


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, about: str, *, short: int, long: int, mutants: tuple[str, ...], may_duplicate: bool = False
) -> Callable[[RunFault], RunFault]:
    """Register a function as the run of this fault."""

    def register(run: RunFault) -> RunFault:
        FAULTS[name] = Fault(name, about, run, short, long, mutants, may_duplicate)
        return run

    return register


def all_faults() -> dict[str, Fault]:
    """Return every fault by name, in the order of the table."""
    for module in MODULES:
        importlib.import_module(module)
    return FAULTS
