"""Owns what a fault is, and what a trial of it finds."""

import importlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

MODULES = ("crashes", "power", "disks", "mailing", "partnering", "clocks", "clients", "upkeep")


class CannotTry(Exception):
    """This machine does not let it be tried. The message says why."""


@dataclass
class FaultRun:
    """One run of a harness: how it is to be run, and what it found."""

    folder: Path  # an empty one of its own
    times: int  # how often, or with how much, it is to be tried
    mutant: str | None = None  # a defect to put in, which it must find
    timed: bool = False  # whether what took too long counts; on a busy machine it doesn't

    tried: int = 0
    lost: int = 0  # acknowledged, and not there; or there, and not whole
    duplicated: int = 0
    recovery: float | None = None  # seconds from the end of the fault until all was as before
    recovery_by_clock: bool = False  # seconds of the clock that the trial steps, not of the wall's
    seen: str = ""  # what else was measured, for the table
    broken: list[str] = field(default_factory=list)  # the promises that did not hold
    not_tried: str | None = None  # why not

    def require(self, held: object, promise: str) -> None:
        """Note a promise, and whether it held."""
        if not held and promise not in self.broken:
            self.broken.append(promise)

    def require_quick(self, seconds: float, most: float, promise: str) -> None:
        """The same of one that is about time."""
        if self.timed:
            self.require(seconds <= most, f"{promise} within {most:g} s (took {seconds:.3f} s)")

    def recovered_since(self, moment: float) -> None:
        """All is as before again, counted from this moment of `time.monotonic`; the slowest time is kept."""
        self.recovery = max(self.recovery or 0.0, time.monotonic() - moment)

    def close(self, *, may_duplicate: bool) -> None:
        """Judge what every trial is judged by."""
        self.require(self.tried > 0, "something was tried")
        self.require(self.recovery is not None, "it recovered")
        self.judge_losses(may_duplicate=may_duplicate)

    def judge_losses(self, *, may_duplicate: bool) -> None:
        """Judge what also a trial that did not come to its end is judged by."""
        self.require(self.lost == 0, f"nothing is lost ({self.lost} were)")
        self.require(may_duplicate or self.duplicated == 0, f"nothing comes twice ({self.duplicated} did)")


Harness = Callable[[FaultRun], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """A fault by its name, how to try it, and the mutants that the harness must catch."""

    name: str
    about: str
    run: Harness
    short: int  # how often in `make test`
    long: int  # how often in `make faults`
    mutants: tuple[str, ...]
    may_duplicate: bool  # whether nobody could keep a mail from coming twice


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, about: str, *, short: int, long: int, mutants: tuple[str, ...], may_duplicate: bool = False
) -> Callable[[Harness], Harness]:
    """Register a harness as this fault's."""

    def register(run: Harness) -> Harness:
        FAULTS[name] = Fault(name, about, run, short, long, mutants, may_duplicate)
        return run

    return register


def all_faults() -> dict[str, Fault]:
    """Every fault, by name, in the order of the table."""
    for module in MODULES:
        importlib.import_module(module)
    return FAULTS
