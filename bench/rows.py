"""The rows of the bench's table: each measures one figure of a checkout's server."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fill import fill
from load import Load, quantile, send_at_full_speed, send_at_rate
from postgres import Costs, measure_costs, running_cluster, server_on
from postgres import fill as fill_postgres
from processes import Process, bare_tornado, leads_server, register_building, started
from progress import show_progress
from slow_disk import NoCompiler, slow_disk

SECONDS = 4  # of each load at full speed
MILLION, THOUSAND = 1_000_000, 1_000


class NotMeasurable(Exception):
    """This machine can't measure the row. The message says why."""


# Loads at full speed in the current round, by checkout (None: bare Tornado) and connections.
Round = dict[tuple[Path | None, int], Load]


class Bench:
    """A checkout under measurement, with what its rows share: databases, and loads of the current round."""

    def __init__(self, checkout: Path, folder: Path, current_round: Round) -> None:
        """folder: an empty one for databases. current_round: shared by checkouts, as bare Tornado is."""
        self.checkout = checkout
        self._folder = folder
        self._round = current_round
        self._databases: dict[tuple[int, int], Path] = {}

    def server(self, data_dir: Path | None = None, /, **variables: str) -> AbstractContextManager[Process]:
        """Run the checkout's server; see `leads_server`."""
        return leads_server(self.checkout, data_dir, **variables)

    @contextmanager
    def database(self, leads: int, waiting: int = 0) -> Iterator[Path]:
        """Copy a database of so many leads. The mails of the last `waiting` leads have not been sent."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            shutil.copytree(self._filled(leads, waiting), folder, dirs_exist_ok=True)
            os.sync()  # or the system still writes the copy during the measurement
            yield Path(folder)

    def _filled(self, leads: int, waiting: int) -> Path:
        if (leads, waiting) not in self._databases:
            data_dir = self._folder / f"{leads}-{waiting}"
            show_progress(f"making a database of {leads:,} leads ...")
            register_building(self.checkout, data_dir)
            fill(data_dir, leads, waiting, show_progress)
            self._databases[leads, waiting] = data_dir
        return self._databases[leads, waiting]

    def bare(self, connections: int) -> Load:
        """Return bare Tornado's load at full speed, measured once a round."""
        return self._once(None, connections, bare_tornado)

    def ours(self, connections: int) -> Load:
        """Return the server's load at full speed, measured once a round."""
        return self._once(self.checkout, connections, self.server)

    def _once(
        self, whose: Path | None, connections: int, start: Callable[[], AbstractContextManager[Process]]
    ) -> Load:
        if (whose, connections) not in self._round:
            with start() as process:
                self._round[whose, connections] = send_at_full_speed(process.url, connections, SECONDS)
        return self._round[whose, connections]


@dataclass(frozen=True)
class Figure:
    """A row's value in one round, and the numbers behind it as text."""

    value: float
    of: str


@dataclass(frozen=True)
class Row:
    """One measurement, and its goal."""

    name: str
    about: str
    goal: float
    at_least: bool  # else at most
    unit: str
    measure: Callable[[Bench], Figure]
    rounds: int | None  # fewer than asked for, where one takes long

    def met(self, value: float) -> bool:
        """Return True if the value reaches the goal."""
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
    """Register a function as a row of the table."""

    def register(measure: Callable[[Bench], Figure]) -> Callable[[Bench], Figure]:
        ROWS[name] = Row(name, about, at_least or at_most, bool(at_least), unit, measure, rounds)
        return measure

    return register


def _over_bare(bench: Bench, connections: int) -> Figure:
    ours, bare = bench.ours(connections), bench.bare(connections)
    return Figure(ours.rate / bare.rate, f"{ours.rate:,.0f} leads/s over {bare.rate:,.0f}")


@row("rate-64", "durable leads/s at 64 connections, over bare Tornado", at_least=0.60)
def rate_64(bench: Bench) -> Figure:
    return _over_bare(bench, 64)


@row("rate-8", "the same at 8 connections", at_least=0.45)
def rate_8(bench: Bench) -> Figure:
    return _over_bare(bench, 8)


@row("lone", "median latency of a lone client, over bare Tornado's", at_most=4.0)
def lone(bench: Bench) -> Figure:
    ours, bare = bench.ours(1), bench.bare(1)
    return Figure(ours.p50 / bare.p50, f"{ours.p50:.2f} ms over {bare.p50:.2f}")


@row("half", "p99 at half of the top rate", at_most=15.0, unit=" ms")
def half(bench: Bench) -> Figure:
    rate = bench.ours(64).rate / 2
    with bench.server() as server:
        send_at_rate(server.url, rate, 1)
        seen = send_at_rate(server.url, rate, SECONDS)
    assert set(seen.statuses) == {"201"}, seen.statuses
    p50, p99 = quantile(seen.latencies, 0.5), quantile(seen.latencies, 0.99)
    return Figure(p99, f"{rate:,.0f} leads/s, p50 {p50:.1f} ms")


@row("million", "top rate with 1,000,000 leads stored, over that with 1,000", at_least=0.95)
def million(bench: Bench) -> Figure:
    rates = []
    for leads in (THOUSAND, MILLION):
        with bench.database(leads) as data_dir, bench.server(data_dir) as server:
            rates.append(send_at_full_speed(server.url, 64, SECONDS).rate)
    return Figure(rates[1] / rates[0], f"{rates[1]:,.0f} leads/s over {rates[0]:,.0f}")


@row("slow-disk", "leads/s at 64 connections with an fsync of 10 ms, over those without", at_least=0.60)
def slow(bench: Bench) -> Figure:
    ours = bench.ours(64)
    try:
        with slow_disk(0.010) as variables, bench.server(**variables) as server:
            slowed = send_at_full_speed(server.url, 64, SECONDS)
    except NoCompiler as reason:
        raise NotMeasurable(str(reason)) from None
    return Figure(slowed.rate / ours.rate, f"{slowed.rate:,.0f} leads/s over {ours.rate:,.0f}")


@row("refused", "refused requests (429) a second, over bare Tornado", at_least=0.85)
def refused(bench: Bench) -> Figure:
    with bench.server(LEADS_RATE_LIMIT="1/86400") as server:
        send_at_rate(server.url, 10, 0.2, 1)  # takes the only token
        ours = send_at_full_speed(server.url, 64, SECONDS, refused=True)
    bare = bench.bare(64)
    return Figure(ours.rate / bare.rate, f"{ours.rate:,.0f}/s over {bare.rate:,.0f}")


def _from_answer_to_mail(bench: Bench, rate: float, connections: int, seconds: float) -> Figure:
    with bench.server() as server:
        send_at_rate(server.url, 20, 0.5, connections)
        seen = send_at_rate(server.url, rate, seconds, connections)
        assert set(seen.statuses) == {"201"}, seen.statuses
        accepted = _wait_for_mails(server, set(seen.accepted))
    took = [1e3 * (accepted[renter] - at) for renter, at in seen.accepted.items()]
    return Figure(quantile(took, 0.95), f"p50 {quantile(took, 0.5):.1f} ms, of {len(took)} mails")


def _wait_for_mails(server: Process, renters: set[str]) -> dict[str, float]:
    """Return the moments at which the sink accepted the mails about these renters."""
    for _ in range(600):
        accepted = dict(_accepted_mails(server))
        if renters <= accepted.keys():
            return accepted
        time.sleep(0.1)
    raise AssertionError(f"{len(renters - accepted.keys())} mails did not come")


def _accepted_mails(server: Process) -> list[tuple[str, float]]:
    """Return the renter and the moment of each mail that the sink accepted."""
    assert server.sink is not None
    whole, _, _ = server.sink.output.read_text().rpartition("\n")
    return [(renter, float(at)) for renter, at in (line.split(" ") for line in whole.splitlines()[1:])]


@row("mail-idle", "from a 201 to the agent's mail taken, p95: idle", at_most=100.0, unit=" ms")
def mail_idle(bench: Bench) -> Figure:
    # So seldom that the server keeps no SMTP session from one mail to the next.
    return _from_answer_to_mail(bench, 0.8, 1, 12)


@row("mail-200", "the same at 200 leads/s", at_most=1_000.0, unit=" ms")
def mail_200(bench: Bench) -> Figure:
    return _from_answer_to_mail(bench, 200, 16, SECONDS)


@row("mail-rate", "mails a second, once no more leads come", at_least=200.0)
def mail_rate(bench: Bench) -> Figure:
    waiting = 3 * THOUSAND  # half of which are due
    with bench.database(waiting, waiting) as data_dir, bench.server(data_dir) as server:
        for _ in range(600):
            if len(mails := [at for _, at in _accepted_mails(server)]) >= waiting // 2:
                return Figure((len(mails) - 1) / (mails[-1] - mails[0]), f"{len(mails):,} mails")
            time.sleep(0.1)
    raise AssertionError(f"only {len(mails)} mails came")


@row("memory", "resident memory at the start", at_most=70.0, unit=" MB")
def memory(bench: Bench) -> Figure:
    with bench.server() as server:
        time.sleep(0.5)
        return Figure(server.resident_mb, "")


@row("memory-100k", "resident memory after 100,000 leads", at_most=100.0, unit=" MB", rounds=1)
def memory_100k(bench: Bench) -> Figure:
    sent = 0
    with bench.server() as server:
        while sent < 100_000:
            sent += int(send_at_full_speed(server.url, 64, 5).rate * 5)
        return Figure(server.resident_mb, f"{sent:,} leads")


def _time_to_start(bench: Bench, data_dir: Path | None) -> Figure:
    with bench.server(data_dir) as server:
        return Figure(server.started_in, "")


@row("start", "start to ready, on an empty database", at_most=0.7, unit=" s")
def start(bench: Bench) -> Figure:
    return _time_to_start(bench, None)


@row("start-binary", "from the one file's start to its sandbox being ready", at_most=1.5, unit=" s")
def start_binary(bench: Bench) -> Figure:
    binary = bench.checkout / "dist" / "leads"
    if not binary.exists():
        raise NotMeasurable("run 'make binary' first")
    with started("sandbox", program=[str(binary)], LEADS_PORT="0") as process:
        return Figure(process.started_in, f"{binary.stat().st_size / 1e6:.1f} MB")


@row("start-million", "the same with 1,000,000 leads and 100,000 mails waiting", at_most=1.2, unit=" s")
def start_million(bench: Bench) -> Figure:
    with bench.database(MILLION, 100_000) as data_dir:
        return _time_to_start(bench, data_dir)


def _on_postgres(bench: Bench, connections: int, leads: int = 0) -> Costs:
    """Measure the server on a PostgreSQL of this machine. leads: that are stored before."""
    with running_cluster() as cluster, tempfile.TemporaryDirectory() as folder:
        if leads:
            with server_on(cluster, "leads", bench.checkout, Path(folder)):
                pass
            fill_postgres(cluster, "leads", leads)
        with server_on(cluster, "leads", bench.checkout, Path(folder)) as server:
            return measure_costs(server, cluster, connections, SECONDS)


def _over_sqlite(bench: Bench, connections: int) -> Figure:
    on_postgres, on_sqlite = _on_postgres(bench, connections).load, bench.ours(connections)
    return Figure(
        on_postgres.rate / on_sqlite.rate, f"{on_postgres.rate:,.0f} leads/s over {on_sqlite.rate:,.0f}"
    )


@row("pg-64", "leads/s at 64 connections on PostgreSQL, over those on SQLite", at_least=0.50)
def postgres_64(bench: Bench) -> Figure:
    return _over_sqlite(bench, 64)


@row("pg-8", "the same at 8 connections", at_least=0.30)
def postgres_8(bench: Bench) -> Figure:
    return _over_sqlite(bench, 8)


@row(
    "pg-million", "top rate on PostgreSQL with 1,000,000 leads, over that with 1,000", at_least=0.90, rounds=2
)
def postgres_million(bench: Bench) -> Figure:
    many, few = (_on_postgres(bench, 64, leads).load.rate for leads in (MILLION, THOUSAND))
    return Figure(many / few, f"{many:,.0f} leads/s over {few:,.0f}")


@row("pg-cost", "processor time of a lead on PostgreSQL at 64 connections, over SQLite's", at_most=2.5)
def postgres_cost(bench: Bench) -> Figure:
    ours = _on_postgres(bench, 64)
    with bench.server() as server:
        sqlite = measure_costs(server, None, 64, SECONDS)
    of = (
        f"{ours.server_ms:.2f} ms in the server and {ours.database_ms:.2f} in PostgreSQL, "
        f"over {sqlite.server_ms:.2f}"
    )
    return Figure((ours.server_ms + ours.database_ms) / sqlite.server_ms, of)
