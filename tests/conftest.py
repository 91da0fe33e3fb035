"""Fixtures: a whole server on a real socket, with a test mail server and a test partner server."""

import asyncio
import inspect
import json
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import databases
import psycopg
import pytest
from command_line import ACTOR, Commands
from mail_server import MailServer
from partner_server import PartnerServer
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.ioloop import IOLoop

from models import settings
from models.building_actions import add_building
from models.clock import Clock, utc_text
from models.lead_record import list_leads, show_lead
from models.outbox.listing import list_deliveries, list_destinations
from models.storage import rows, submit_and_wait
from models.storage.write_queue import WriteQueue
from server import Server

pytest_plugins = ["leads_sandbox", "browsing", "real_mail_servers"]

DATABASE_FIXTURES = {"harness", "start_harness", "commands"}
LEADS = "/api/v1/website_leads"
LEFT_OUT = pytest.StashKey[int]()  # how many tests use no database
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which programs are missing and so what was not tested, and what was left out on PostgreSQL."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = {report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)}
    for reason in sorted(reason for reason in reasons if "not found" in reason):
        terminalreporter.write_line(f"NOT TESTED: {reason.removeprefix('Skipped: ')}", red=True, bold=True)
    if databases.IS_POSTGRESQL:
        ran = sum(len(terminalreporter.stats.get(outcome, [])) for outcome in ("passed", "failed"))
        terminalreporter.write_line(
            f"On PostgreSQL: {ran} tests ran, {len(skipped)} are about SQLite or were skipped, and "
            f"{terminalreporter.config.stash.get(LEFT_OUT, 0)} use no database and were left out."
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            item.add_marker(pytest.mark.gen_test(timeout=60))
    if databases.IS_POSTGRESQL:
        left_out = [item for item in items if not uses_database(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if uses_database(item)]
        config.stash[LEFT_OUT] = len(left_out)
        for item in items:
            if marker := item.get_closest_marker("sqlite"):
                item.add_marker(pytest.mark.skip(reason=f"SQLite only: {marker.args[0]}"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # of pytest-xdist
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = node.workeroutput.get("left_out", 0)  # each worker collects all tests


def uses_database(item: pytest.Item) -> bool:
    """True if the test uses a database, so that it runs on each of them.

    A test that does so in spite of this rule fails on SQLite.
    """
    fixtures: Sequence[str] = getattr(item, "fixturenames", ())
    markers = [item.get_closest_marker(name) for name in ("database", "sqlite")]
    return not DATABASE_FIXTURES.isdisjoint(fixtures) or any(markers)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    yield
    used, folders = databases.used_folders.copy(), getattr(item, "funcargs", {})
    databases.used_folders.clear()
    if databases.IS_POSTGRESQL and "tmp_path" in folders:
        databases.release_all_of(folders["tmp_path"])
    elif used and not uses_database(item):
        pytest.fail("this test uses a database, and would not run on PostgreSQL; mark it `database`")


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """In place of pytest-tornado's own, which leaks its loop."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield IOLoop.current()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())
    IOLoop.current().close(all_fds=True)
    asyncio.set_event_loop(None)


class SteppedClock(Clock):
    """Clock that advances only when a test steps it."""

    def __init__(self) -> None:
        self._now = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
        self._monotonic_ns = 1_000_000_000_000

    def now(self) -> datetime:
        return self._now

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def set_time_of_day(self, seconds: float) -> None:
        """Move the time of day by so many seconds; the monotonic clock is unchanged."""
        self._now += timedelta(seconds=seconds)

    def step(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic_ns += int(seconds * 1e9)


async def until(true: Callable[[], Any]) -> Any:
    """Wait until the condition is true, up to the test's timeout; return its value."""
    while not (result := true()):
        await asyncio.sleep(0.005)
    return result


class ServerHarness:
    """A running server, its mail server, its partner server, and a client."""

    def __init__(self, data_dir: Path, clock: Clock) -> None:
        self.data_dir = data_dir
        self.clock = clock
        self.mail = MailServer()
        self.partner = PartnerServer()
        self.client = AsyncHTTPClient(force_instance=True, max_clients=200)

    async def start(self, **options: str) -> None:
        """Start the server with these settings; mail and partner are set unless they are given as ''."""
        given = {
            **databases.settings_of(self.data_dir),
            "port": "0",
            "smtp_url": self.mail.url,
            "mail_from": "leads@office.test",
            "mails_per_source": "0",  # a test sees one mail for each lead
            "mails_per_address": "0",
            "june_homes_url": self.partner.url,
            "june_homes_secret": SECRET,
            **options,
        }
        self.server = Server(settings.load(given, environment={}), self.clock)
        await self.server.start()
        self.url = self.server.url

    @property
    def queue(self) -> WriteQueue:
        """The queue of the server's writer."""
        queue = self.server.storage.writer  # type: ignore[attr-defined]  # no part of the protocol
        assert isinstance(queue, WriteQueue)
        return queue

    async def restart(self, **options: str) -> None:
        await self.server.stop()
        await self.start(**options)

    async def request(
        self, method: str, path: str, body: bytes | str | None = None, **headers: str
    ) -> HTTPResponse:
        if method == "POST":  # or the client would call it a form
            headers.setdefault("Content_Type", "application/json")
        return await self.client.fetch(
            self.url + path,
            method=method,
            body=body,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            raise_error=False,
            allow_nonstandard_methods=True,
            request_timeout=50,
        )

    async def post(self, body: Any, path: str = LEADS, **headers: str) -> HTTPResponse:
        """POST a value as JSON."""
        return await self.request("POST", path, json.dumps(body), **headers)

    async def raw(self, request: bytes) -> bytes:
        """Send these bytes; return what the server sends until it closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        writer.write(request)
        try:
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def lead(self, **fields: Any) -> int:
        """POST a lead that must be taken: fields of tour_request, and token or the like; gives its id."""
        outer = {
            name: fields.pop(name)
            for name in ("token", "unified_address_id", "address_line_one")
            if name in fields
        }
        response = await self.post(
            {**outer, "tour_request": {"requestor_email": "jane@renter.test", **fields}}
        )
        assert response.code == 201, response.body
        return int(json.loads(response.body)["id"])

    async def stored(self, lead_id: int) -> dict[str, Any]:
        found = await self.server.storage.read(show_lead, lead_id)
        assert found is not None
        return dict(found)

    async def leads(self) -> list[dict[str, Any]]:
        return await self.server.storage.read(lambda: [dict(lead) for lead in list_leads(newest_first=False)])

    async def deliveries(self, **only: Any) -> list[dict[str, Any]]:
        rows = await self.server.storage.read(list_deliveries, None, None, 100_000, self.clock.now())
        records: list[dict[str, Any]] = [dict(row) for row in reversed(rows)]
        return [row for row in records if all(row[name] == value for name, value in only.items())]

    async def destination(self, kind: str) -> dict[str, Any]:
        rows = await self.server.storage.read(list_destinations, self.clock.now())
        return next(dict(row) for row in rows if row["kind"] == kind)

    async def settled(self, **only: Any) -> list[dict[str, Any]]:
        """Wait until no delivery is due or being sent; return the deliveries."""
        while True:
            self.server.dispatcher.wake()
            rows = await self.deliveries()
            due = [r for r in rows if r["state"] == "pending" and r["due_at"] <= now_text(self.clock)]
            held = [r for r in due if (await self.destination(r["kind"]))["waits_because"]]
            if len(due) == len(held) and not any(r["state"] == "sending" for r in rows):
                return await self.deliveries(**only)
            await asyncio.sleep(0.005)

    async def change(self, write: Callable[[], Any]) -> Any:
        """Run a write on another connection, as a command beside the server does."""

        def work() -> Any:
            with databases.transaction():
                return write()

        return await asyncio.to_thread(work)

    async def building(
        self, token: str | None = "maple", websites: Sequence[str] = (), **fields: str | None
    ) -> int:
        """Register a building; return its id."""
        values = {"name": "The Maple", "agent_email": "agent@maple.test", **fields}
        added, _ = await self.change(lambda: add_building(ACTOR, values, token, self.clock.now(), websites))
        return int(added.id)


@asynccontextmanager
async def held(harness: ServerHarness) -> AsyncIterator[None]:
    """Hold a lock on another connection for the block; the server's writes queue behind it meanwhile."""
    hold = _held_postgresql if databases.IS_POSTGRESQL else _held_sqlite
    async with hold(harness):
        yield


@asynccontextmanager
async def _held_sqlite(harness: ServerHarness) -> AsyncIterator[None]:
    file = str(harness.data_dir / "leads.db")
    with pytest.MonkeyPatch.context() as patch, closing(apsw.Connection(file)) as other:
        patch.setattr("models.storage.sqlite.connection.BUSY_TIMEOUT_SECONDS", 60)
        while True:
            try:
                other.execute("BEGIN IMMEDIATE")
                break
            except apsw.BusyError:  # a transaction of the server's is open, and takes the loop to be ended
                await asyncio.sleep(0.01)
        # It waits for the lock; all that comes now waits behind it.
        submit_and_wait(harness.server.storage, _nothing, None)
        yield
        other.execute("COMMIT")


def _nothing(items: Sequence[None]) -> Sequence[None]:
    return items


@asynccontextmanager
async def _held_postgresql(harness: ServerHarness) -> AsyncIterator[None]:
    url = databases.settings_of(harness.data_dir)["database_url"]
    with pytest.MonkeyPatch.context() as patch, psycopg.connect(url) as other:
        patch.setattr("models.storage.postgres.writer.STALLED_SECONDS", 60)
        other.execute("SELECT pg_advisory_xact_lock(1)")
        submit_and_wait(harness.server.storage, _wait_for_the_lock, None)
        yield


def _wait_for_the_lock(items: Sequence[None]) -> Sequence[None]:
    rows.database.execute_sql("SET LOCAL lock_timeout = 0")
    rows.database.execute_sql("SELECT pg_advisory_xact_lock(1)")
    return items


async def queued(harness: ServerHarness, writes: int) -> None:
    """Wait until so many writes have queued up behind the lock."""
    await until(lambda: harness.queue.unanswered > writes)


def now_text(clock: Clock) -> str:
    return utc_text(clock.now())


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@asynccontextmanager
async def running_harness(data_dir: Path, clock: Clock, **options: str) -> AsyncIterator[ServerHarness]:
    harness = ServerHarness(data_dir, clock)
    await harness.mail.start()
    harness.partner.start()
    try:
        await harness.start(**options)
        try:
            yield harness
        finally:
            await harness.server.stop(finish_seconds=0.5)  # some tests leave a mail that is never answered
    finally:
        harness.client.close()
        await harness.partner.stop()
        await harness.mail.stop()


StartHarness = Callable[..., Awaitable[ServerHarness]]


@pytest.fixture
def start_harness(io_loop: IOLoop, tmp_path: Path, clock: SteppedClock) -> Iterator[StartHarness]:
    """Opens a harness with the settings given; it is closed after the test."""
    opened: list[Any] = []

    async def open_one(**options: str) -> ServerHarness:
        context = running_harness(tmp_path / uuid.uuid4().hex, clock, **options)
        harness = await context.__aenter__()
        opened.append(context)
        return harness

    yield open_one
    for context in opened:
        io_loop.run_sync(lambda c=context: c.__aexit__(None, None, None))


@pytest.fixture
def harness(io_loop: IOLoop, start_harness: StartHarness) -> ServerHarness:
    """A harness with default settings, and one building whose token is 'maple'."""

    async def open_one() -> ServerHarness:
        # A limit of its own, so that a test of something else doesn't meet it.
        harness = await start_harness(rate_limit="100000/1")
        await harness.building(websites=["https://maple.test"], address_line_one="12 Maple Street")
        return harness

    opened: ServerHarness = io_loop.run_sync(open_one)
    return opened


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """The operator's commands on a data folder of their own; the first command creates it."""
    return Commands(tmp_path / "data")


@pytest.fixture
def other_address() -> str:
    """An address of this machine that is not a loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no other address")
        address: str = probe.getsockname()[0]
        return address
