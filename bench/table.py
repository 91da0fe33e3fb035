"""The bench's results, as a Markdown table and as JSON."""

import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tornado
from load import WRK
from rows import Figure, Row


@dataclass
class Findings:
    """The figures of one row, round by round, for one checkout."""

    figures: list[Figure] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        """The value of each round."""
        return [figure.value for figure in self.figures]

    def as_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON has them."""
        return {
            "median": statistics.median(self.values) if self.figures else None,
            "lowest": min(self.values, default=None),
            "highest": max(self.values, default=None),
            "rounds": [{"value": figure.value, "of": figure.of} for figure in self.figures],
        }

    def typical(self) -> str:
        """Return the numbers behind the round that lies nearest to the median."""
        middle = statistics.median(self.values)
        return min(self.figures, key=lambda figure: abs(figure.value - middle)).of


@dataclass
class Result:
    """A row's findings: for this checkout, and for the one that it is compared with."""

    row: Row
    here: Findings = field(default_factory=Findings)
    against: Findings = field(default_factory=Findings)
    not_measured: str | None = None  # the reason

    @property
    def met(self) -> bool | None:
        """Whether this checkout's median reaches the goal; None if it was not measured."""
        return self.row.met(statistics.median(self.here.values)) if self.here.figures else None

    @property
    def quotients(self) -> list[float]:
        """This checkout's value over the other's, round by round."""
        return [here / there for here, there in zip(self.here.values, self.against.values, strict=False)]

    def as_dict(self) -> dict[str, Any]:
        """Return the row as JSON has it."""
        row = self.row
        result = {
            "row": row.name,
            "about": row.about,
            "goal": row.goal,
            "goal_is": "at least" if row.at_least else "at most",
            "unit": row.unit.strip(),
            **self.here.as_dict(),
            "met": self.met,
            "not_measured": self.not_measured,
        }
        if self.quotients:
            result |= {"against": self.against.as_dict(), "quotient": statistics.median(self.quotients)}
        return result


HEAD = """\
| row | what | goal | median | spread (rounds) | met | of, in a typical round |
|---|---|---|---|---|---|---|"""


def line(result: Result) -> str:
    """Return the row in Markdown, beside its goal."""
    row, here = result.row, result.here
    goal = f"{'≥' if row.at_least else '≤'} {_number(row.goal)}{row.unit}"
    if not here.figures:
        return f"| {row.name} | {row.about} | {goal} | not measured: {result.not_measured} | | | |"
    met = "yes" if result.met else "**no**"
    return (
        f"| {row.name} | {row.about} | {goal} | {_median(here, row.unit)} | {_spread(here.values)} | {met} "
        f"| {here.typical()} |"
    )


HEAD_AGAINST = """\
| row | what | better | here | spread (rounds) | against | spread (rounds) | quotient | spread (rounds) |
|---|---|---|---|---|---|---|---|---|"""


def line_against(result: Result) -> str:
    """Return the row in Markdown, beside the other checkout. The quotient is the median of the rounds'."""
    row, here, there = result.row, result.here, result.against
    better = "higher" if row.at_least else "lower"
    if not result.quotients:
        return f"| {row.name} | {row.about} | {better} | not measured: {result.not_measured} | | | | | |"
    return (
        f"| {row.name} | {row.about} | {better} | {_median(here, row.unit)} | {_spread(here.values)} "
        f"| {_median(there, row.unit)} | {_spread(there.values)} "
        f"| {statistics.median(result.quotients):.3f} | {_spread(result.quotients)} |"
    )


def _median(findings: Findings, unit: str) -> str:
    return f"{_number(statistics.median(findings.values))}{unit}"


def _spread(values: Sequence[float]) -> str:
    return f"{_number(min(values))}–{_number(max(values))} ({len(values)})"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def machine(checkouts: Sequence[Path]) -> str:
    """Return a line about the machine, the versions in use, and the checkouts' commits."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (cpu.partition(": ")[2] for cpu in cpus if cpu.startswith("model name")), "an unnamed processor"
    )
    cores = sum(cpu.startswith("processor") for cpu in cpus)
    return (
        f"{cores} cores of {model}; Python {platform.python_version()}, Tornado {tornado.version}; "
        f"load by {'wrk' if WRK else 'bench/pace.py'}; {time.strftime('%Y-%m-%d')}, "
        f"at {' against '.join(_commit(checkout) for checkout in checkouts)}"
    )


def _commit(checkout: Path) -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True).stdout.strip() or "no commit"
