"""Owns the measuring: beside bare Tornado, in rounds, and a table with the goal beside each figure.

python bench/run.py                     every row, in five rounds
python bench/run.py rate-64 lone ...    these rows alone; --list names them
--rounds N --json
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tornado
from fill import fill
from processes import (
    ROOT,
    WRK,
    Load,
    Process,
    as_fast_as_it_can,
    at_a_rate,
    bare,
    leads_server,
    quantile,
    register_building,
    started,
)
from slow_disk import NoCompiler, slow_disk

SECONDS = 4  # of each look at a rate
BINARY = ROOT / "dist" / "leads"
MILLION, THOUSAND = 1_000_000, 1_000


class NotHere(Exception):
    """This machine can't measure it. The message says why."""


class Bench:
    """What the rows share in one run: databases that take long to make, and what a round has measured."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._databases: dict[tuple[int, int], Path] = {}
        self.round: dict[str, Load] = {}

    @contextmanager
    def database(self, leads: int, waiting: int = 0) -> Iterator[Path]:
        """A data folder of its own, with so many leads, and of the last of them so many mails waiting."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            shutil.copytree(self._made(leads, waiting), folder, dirs_exist_ok=True)
            os.sync()  # or the copy is still being written while something is measured
            yield Path(folder)

    def _made(self, leads: int, waiting: int) -> Path:
        if (leads, waiting) not in self._databases:
            data_dir = self._folder / f"{leads}-{waiting}"
            tell(f"making a database of {leads:,} leads ...")
            register_building(data_dir)
            fill(data_dir, leads, waiting, tell)
            self._databases[leads, waiting] = data_dir
        return self._databases[leads, waiting]

    def bare(self, connections: int) -> Load:
        """Bare Tornado over so many connections, once a round."""
        return self._once(f"bare {connections}", lambda: bare(), connections)

    def ours(self, connections: int) -> Load:
        """The server over so many connections, once a round."""
        return self._once(f"ours {connections}", lambda: leads_server(), connections)

    def _once(self, name: str, server: Callable[[], Any], connections: int) -> Load:
        if name not in self.round:
            with server() as process:
                self.round[name] = as_fast_as_it_can(process.url, connections, SECONDS)
        return self.round[name]


@dataclass(frozen=True)
class Figure:
    """What a row measured in one round, and the figures that it was made of, for the curious."""

    value: float
    of: str


@dataclass(frozen=True)
class Row:
    """A thing to measure, and its goal."""

    name: str
    about: str
    goal: float
    at_least: bool  # else at most
    unit: str
    measure: Callable[[Bench], Figure]
    rounds: int | None  # fewer than asked for, where one takes long

    def met(self, value: float) -> bool:
        return value >= self.goal if self.at_least else value <= self.goal


ROWS: dict[str, Row] = {}


def row(
    name: str,
    about: str,
    *,
    at_least: float = 0.0,
    at_most: float = 0.0,
    unit: str = "",
    rounds: int | None = None,
) -> Callable[[Callable[[Bench], Figure]], Callable[[Bench], Figure]]:
    """Register a measurement as a row of the table."""

    def register(measure: Callable[[Bench], Figure]) -> Callable[[Bench], Figure]:
        ROWS[name] = Row(name, about, at_least or at_most, bool(at_least), unit, measure, rounds)
        return measure

    return register


def _over_bare(bench: Bench, connections: int) -> Figure:
    ours, yardstick = bench.ours(connections), bench.bare(connections)
    return Figure(ours.rate / yardstick.rate, f"{ours.rate:,.0f} leads/s over {yardstick.rate:,.0f}")


@row("rate-64", "durable leads/s at 64 connections, over bare Tornado", at_least=0.60)
def rate_64(bench: Bench) -> Figure:
    return _over_bare(bench, 64)


@row("rate-8", "the same at 8 connections", at_least=0.45)
def rate_8(bench: Bench) -> Figure:
    return _over_bare(bench, 8)


@row("lone", "median latency of a lone client, over bare Tornado's", at_most=4.0)
def lone(bench: Bench) -> Figure:
    ours, yardstick = bench.ours(1), bench.bare(1)
    return Figure(ours.p50 / yardstick.p50, f"{ours.p50:.2f} ms over {yardstick.p50:.2f}")


@row("half", "p99 at half of the top rate", at_most=15.0, unit=" ms")
def half(bench: Bench) -> Figure:
    rate = bench.ours(64).rate / 2
    with leads_server() as server:
        at_a_rate(server.url, rate, 1)
        seen = at_a_rate(server.url, rate, SECONDS)
    assert set(seen.statuses) == {"201"}, seen.statuses
    p50, p99 = quantile(seen.latencies, 0.5), quantile(seen.latencies, 0.99)
    return Figure(p99, f"{rate:,.0f} leads/s, p50 {p50:.1f} ms")


@row("million", "top rate with 1,000,000 leads stored, over that with 1,000", at_least=0.95)
def million(bench: Bench) -> Figure:
    rates = []
    for leads in (THOUSAND, MILLION):
        with bench.database(leads) as data_dir, leads_server(data_dir) as server:
            rates.append(as_fast_as_it_can(server.url, 64, SECONDS).rate)
    return Figure(rates[1] / rates[0], f"{rates[1]:,.0f} leads/s over {rates[0]:,.0f}")


@row("slow-disk", "leads/s at 64 connections with an fsync of 10 ms, over those without", at_least=0.60)
def slow(bench: Bench) -> Figure:
    ours = bench.ours(64)
    try:
        with slow_disk(0.010) as variables, leads_server(**variables) as server:
            slowed = as_fast_as_it_can(server.url, 64, SECONDS)
    except NoCompiler as reason:
        raise NotHere(str(reason)) from None
    return Figure(slowed.rate / ours.rate, f"{slowed.rate:,.0f} leads/s over {ours.rate:,.0f}")


@row("refused", "refused requests (429) a second, over bare Tornado", at_least=0.85)
def refused(bench: Bench) -> Figure:
    with leads_server(LEADS_RATE_LIMIT="1/86400") as server:
        at_a_rate(server.url, 10, 0.2, 1)  # takes the one token there is
        ours = as_fast_as_it_can(server.url, 64, SECONDS, refused=True)
    yardstick = bench.bare(64)
    return Figure(ours.rate / yardstick.rate, f"{ours.rate:,.0f}/s over {yardstick.rate:,.0f}")


def _from_answer_to_mail(rate: float, connections: int, seconds: float) -> Figure:
    with leads_server() as server:
        at_a_rate(server.url, 20, 0.5, connections)
        seen = at_a_rate(server.url, rate, seconds, connections)
        assert set(seen.statuses) == {"201"}, seen.statuses
        taken = _mails(server, set(seen.accepted))
    took = [1e3 * (taken[renter] - at) for renter, at in seen.accepted.items()]
    p95 = quantile(took, 0.95)
    return Figure(p95, f"p50 {quantile(took, 0.5):.1f} ms, of {len(took)} mails")


def _mails(server: Process, renters: set[str]) -> dict[str, float]:
    """When the sink took the mail about each of these renters; waits for them."""
    assert server.sink is not None
    for _ in range(600):
        taken = dict(_taken(server.sink))
        if renters <= taken.keys():
            return taken
        time.sleep(0.1)
    raise AssertionError(f"{len(renters - taken.keys())} mails did not come")


def _taken(sink: Process) -> list[tuple[str, float]]:
    """Of which renter a mail was taken, and when."""
    whole, _, _ = sink.output.read_text().rpartition("\n")
    return [(renter, float(at)) for renter, at in (line.split(" ") for line in whole.splitlines()[1:])]


@row("mail-idle", "from a 201 to the agent's mail taken, p95: idle", at_most=100.0, unit=" ms")
def mail_idle(bench: Bench) -> Figure:
    # So seldom that no conversation with the mail server is kept from one to the next.
    return _from_answer_to_mail(0.8, 1, 12)


@row("mail-200", "the same at 200 leads/s", at_most=1_000.0, unit=" ms")
def mail_200(bench: Bench) -> Figure:
    return _from_answer_to_mail(200, 16, SECONDS)


@row("mail-rate", "mails a second, once no more leads come", at_least=200.0)
def mail_rate(bench: Bench) -> Figure:
    waiting = 3 * THOUSAND  # half of which are due
    with bench.database(waiting, waiting) as data_dir, leads_server(data_dir) as server:
        assert server.sink is not None
        for _ in range(600):
            if len(taken := [at for _, at in _taken(server.sink)]) >= waiting // 2:
                return Figure((len(taken) - 1) / (taken[-1] - taken[0]), f"{len(taken):,} mails")
            time.sleep(0.1)
    raise AssertionError(f"only {len(taken)} mails came")


@row("memory", "resident memory at the start", at_most=70.0, unit=" MB")
def memory(bench: Bench) -> Figure:
    with leads_server() as server:
        time.sleep(0.5)
        return Figure(server.resident_mb, "")


@row("memory-100k", "resident memory after 100,000 leads", at_most=100.0, unit=" MB", rounds=1)
def memory_100k(bench: Bench) -> Figure:
    taken = 0
    with leads_server() as server:
        while taken < 100_000:
            seen = as_fast_as_it_can(server.url, 64, 5)
            taken += int(seen.rate * 5)
        return Figure(server.resident_mb, f"{taken:,} leads")


def _time_to_start(data_dir: Path | None) -> Figure:
    with leads_server(data_dir) as server:
        return Figure(server.started_in, "")


@row("start", "start to ready, on an empty database", at_most=0.7, unit=" s")
def start(bench: Bench) -> Figure:
    return _time_to_start(None)


@row("start-binary", "from the one file's start to its sandbox being ready", at_most=1.5, unit=" s")
def start_binary(bench: Bench) -> Figure:
    if not BINARY.exists():
        raise NotHere("say 'make binary' before")
    with started("sandbox", program=[str(BINARY)], LEADS_PORT="0") as process:
        size = BINARY.stat().st_size / 1e6
        return Figure(process.started_in, f"{size:.1f} MB")


@row("start-million", "the same with 1,000,000 leads and 100,000 mails waiting", at_most=1.2, unit=" s")
def start_million(bench: Bench) -> Figure:
    with bench.database(MILLION, 100_000) as data_dir:
        return _time_to_start(data_dir)


def tell(what: str) -> None:
    """Say what is being done to whoever waits at a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def tell_round(number: int, rounds: int) -> None:
    """Say to whoever reads along in a file how far it has come."""
    if not sys.stderr.isatty():
        print(f"round {number} of {rounds} done", file=sys.stderr, flush=True)


@dataclass
class Found:
    """What a row found, round by round."""

    row: Row
    figures: list[Figure]
    not_here: str | None = None

    def as_dict(self) -> dict[str, Any]:
        values = [figure.value for figure in self.figures]
        return {
            "row": self.row.name,
            "about": self.row.about,
            "goal": self.row.goal,
            "goal_is": "at least" if self.row.at_least else "at most",
            "unit": self.row.unit.strip(),
            "median": statistics.median(values) if values else None,
            "lowest": min(values, default=None),
            "highest": max(values, default=None),
            "rounds": [{"value": figure.value, "of": figure.of} for figure in self.figures],
            "met": self.row.met(statistics.median(values)) if values else None,
            "not_measured": self.not_here,
        }

    def line(self) -> str:
        """The row for people, in Markdown."""
        sign = "≥" if self.row.at_least else "≤"
        goal = f"{sign} {_number(self.row.goal)}{self.row.unit}"
        if not self.figures:
            return f"| {self.row.name} | {self.row.about} | {goal} | not measured: {self.not_here} | | | |"
        values = sorted(figure.value for figure in self.figures)
        middle = statistics.median(values)
        typical = min(self.figures, key=lambda figure: abs(figure.value - middle)).of
        spread = f"{_number(values[0])}–{_number(values[-1])} ({len(values)})"
        met = "yes" if self.row.met(middle) else "**no**"
        return (
            f"| {self.row.name} | {self.row.about} | {goal} | {_number(middle)}{self.row.unit} "
            f"| {spread} | {met} | {typical} |"
        )


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def machine() -> str:
    """What it was measured on."""
    model = "an unnamed processor"
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            model = text.partition(": ")[2]
            break
    cores = len(
        [1 for text in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("processor")]
    )
    version = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return (
        f"{cores} cores of {model}; Python {platform.python_version()}, Tornado {tornado.version}; "
        f"load by {'wrk' if WRK else 'bench/pace.py'}; {time.strftime('%Y-%m-%d')}, "
        f"at {version.stdout.strip() or 'no commit'}"
    )


def measure(found: dict[str, Found], rounds: int) -> None:
    """Measure these rows in turn, so many times over."""
    with tempfile.TemporaryDirectory(prefix="leads-bench-", dir=ROOT.parent) as folder:
        bench = Bench(Path(folder))
        for number in range(rounds):
            bench.round.clear()
            for this in found.values():
                if this.not_here or number >= (this.row.rounds or rounds):
                    continue
                tell(f"round {number + 1} of {rounds}: {this.row.about} ...")
                try:
                    this.figures.append(this.row.measure(bench))
                except NotHere as reason:
                    this.not_here = str(reason)
            tell_round(number + 1, rounds)


def at_least_one(text: str) -> int:
    """How many rounds."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("give a whole number from 1 up")
    return int(text)


def stop(number: int, frame: object) -> None:
    """End in the way of Ctrl-C, so that what was started is ended and what was made is removed."""
    raise KeyboardInterrupt


def main() -> int:
    """Measure what is asked for; 0 if every goal that was measured was met, 1 if not, 130 if interrupted."""
    parser = argparse.ArgumentParser(description="Measure the server beside bare Tornado.")
    parser.add_argument("names", nargs="*", metavar="ROW", help="these rows alone; --list names them")
    parser.add_argument(
        "--rounds", type=at_least_one, default=5, metavar="N", help="so many rounds (default: 5)"
    )
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}; see --list")
    if args.list:
        for each in ROWS.values():
            print(f"{each.name:<15}{each.about}")
        return 0
    signal.signal(signal.SIGTERM, stop)
    found = {name: Found(ROWS[name], []) for name in args.names or ROWS}
    interrupted = False
    try:
        measure(found, args.rounds)
    except KeyboardInterrupt:
        interrupted = True
    tell("")
    if not args.json:
        print(f"{machine()}\n")
        print("| row | what | goal | median | spread (rounds) | met | of, in a typical round |")
        print("|---|---|---|---|---|---|---|")
    for this in found.values():
        if this.figures or this.not_here:
            print(json.dumps(this.as_dict()) if args.json else this.line())
    if interrupted:
        rounds = max((len(this.figures) for this in found.values()), default=0)
        done = "these are the rounds that were done" if rounds else "no round was done"
        print(f"interrupted; {done}", file=sys.stderr)
        return 130
    if missed := [name for name, this in found.items() if this.as_dict()["met"] is False]:
        print(f"not met: {', '.join(missed)}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
