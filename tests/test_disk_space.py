"""Low disk space: what is left is kept for sources that have stored little (C32)."""

import asyncio
import json
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import Commands
from conftest import LEADS, ServerHarness, StartHarness, SteppedClock, held, running_harness
from disks import small_disk
from fault_run import CannotTry
from test_doctor import report
from tornado.httpclient import HTTPResponse

from jobs import disk_monitor
from jobs.disk_monitor import DiskMonitor
from jobs.doctor.machine import check_space
from models.check_result import OK, PROBLEM, WARNING
from models.clock import Clock
from models.daily_count import REFUSED_FOR_SPACE, DailyCount, add_counts
from models.disk_space import BUDGET_BYTES, ROW_BYTES, DiskSpace, SpaceBudget, measure_disk

MIB, GIB = 2**20, 2**30
NOW = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
LEAD: dict[str, Any] = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}
LARGE = {**LEAD, "padding": "x" * 60_000}
HEAVY, HONEST = "203.0.113.9", "198.51.100.7"
PROXY = {"rate_limit": "100000/1", "trusted_proxies": "127.0.0.1"}


class Disk:
    """A disk whose free space a test sets."""

    def __init__(self) -> None:
        self.free: int | OSError = 50 * GIB

    def measure(self, folder: Path | None = None) -> DiskSpace:
        if isinstance(self.free, OSError):
            raise self.free
        return DiskSpace(self.free, 100 * GIB)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk of each server that is started after this."""
    disk = Disk()
    monkeypatch.setattr("server.measure_disk", disk.measure)
    return disk


async def set_free(harness: ServerHarness, disk: Disk, free: int | OSError) -> None:
    disk.free = free
    await harness.server.disk_monitor.check()


async def post(
    harness: ServerHarness, source: str, lead: dict[str, Any] = LARGE, **headers: str
) -> HTTPResponse:
    return await harness.post(lead, X_Forwarded_For=source, **headers)


async def fill_budget(harness: ServerHarness, source: str = HEAVY) -> None:
    """Store leads of this source until it has used up its budget."""
    for _ in range(BUDGET_BYTES // 60_000):
        assert (await post(harness, source)).code == 201


async def refusals(harness: ServerHarness) -> int:
    rows = await harness.server.storage.read(lambda: list(DailyCount.select()))
    return sum(row.count for row in rows if row.name == REFUSED_FOR_SPACE)


# ---- over the socket


@pytest.mark.sqlite("the disk of PostgreSQL may be another machine's")
async def test_C32_small_disk_nearly_full_keeps_room_for_others(tmp_path: Path) -> None:
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(tmp_path / "data", 64))
        except CannotTry as reason:
            pytest.skip(str(reason))
        async with running_harness(tmp_path / "data", Clock(), **PROXY) as harness:
            await harness.building()
            await fill_budget(harness)
            space = measure_disk(harness.data_dir)
            ballast = harness.data_dir / "ballast"
            ballast.write_bytes(bytes(space.free_bytes - space.reserve_bytes + MIB))
            while (refused := await post(harness, HEAVY, LEAD)).code == 201:
                await asyncio.sleep(0.05)
            assert refused.code == 503 and int(refused.headers["Retry-After"]) >= 1
            assert (await post(harness, HONEST, LEAD)).code == 201
            assert (await harness.request("GET", "/readyz")).code == 200
            ballast.unlink()
            while (await post(harness, HEAVY, LEAD)).code == 503:
                await asyncio.sleep(0.05)


async def test_C32_heavy_source_is_refused_while_others_are_stored(
    start_harness: StartHarness, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    harness = await start_harness(**PROXY)
    await fill_budget(harness)
    assert (await post(harness, HEAVY)).code == 201  # while there is room nothing is refused
    stored = len(await harness.leads())
    await set_free(harness, disk, GIB - 1)
    refused = await post(harness, HEAVY, LEAD)
    assert (refused.code, refused.headers["Retry-After"]) == (503, "600")
    assert json.loads(refused.body) == {
        "error": "the disk of this server is nearly full, and this address has stored a lot today; "
        "the lead was not stored"
    }
    assert refused.headers["Link"] == '</docs#status-503>; rel="help"'
    assert len(await harness.leads()) == stored
    for number in range(20):
        assert (await post(harness, f"198.51.100.{number}", LEAD)).code == 201
    await set_free(harness, disk, GIB)
    assert (await post(harness, HEAVY, LEAD)).code == 201
    events = [record.getMessage() for record in caplog.records if record.name == "leads.disk"]
    assert len(events) == 2 and "nearly full" in events[0] and "has room again" in events[1]
    assert [vars(record)["free_bytes"] for record in caplog.records if record.name == "leads.disk"] == [
        GIB - 1,
        GIB,
    ]


async def test_C32_everything_but_storing_goes_on_while_low(start_harness: StartHarness, disk: Disk) -> None:
    harness = await start_harness(**PROXY)
    await fill_budget(harness)
    await set_free(harness, disk, 0)
    assert (await post(harness, HEAVY, LEAD, Prefer="dry-run")).code == 200
    assert (await post(harness, HEAVY, {"tour_request": {}})).code == 400
    assert (await post(harness, HEAVY, LEAD, Origin="https://evil.test")).code == 403
    assert (await harness.request("GET", LEADS, X_Forwarded_For=HEAVY)).code == 405
    assert (await harness.request("GET", "/docs", X_Forwarded_For=HEAVY)).code == 200
    assert await refusals(harness) == 0


async def test_C32_C27a_refused_form_gets_a_page(start_harness: StartHarness, disk: Disk) -> None:
    harness = await start_harness(**PROXY)
    await fill_budget(harness)
    await set_free(harness, disk, 0)
    form = {"Content_Type": "application/x-www-form-urlencoded", "Sec_Fetch_Mode": "navigate"}
    body = "tour_request[requestor_email]=jane@renter.test"
    page = await harness.request("POST", LEADS, body, X_Forwarded_For=HEAVY, **form)
    assert page.code == 503 and page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"take messages right now" in page.body


async def test_C32_the_next_day_begins_with_a_whole_budget(
    start_harness: StartHarness, disk: Disk, clock: SteppedClock
) -> None:
    harness = await start_harness(**PROXY)
    await fill_budget(harness)
    await set_free(harness, disk, 0)
    clock.step(9 * 3_600 - 1)  # to 23:59:59 UTC
    assert (await post(harness, HEAVY, LEAD)).code == 503
    clock.step(1)
    assert (await post(harness, HEAVY, LEAD)).code == 201
    await fill_budget(harness)
    assert (await post(harness, HEAVY, LEAD)).code == 503


async def test_C32_source_with_a_rate_of_its_own_is_exempt(start_harness: StartHarness, disk: Disk) -> None:
    harness = await start_harness(**PROXY, rate_limit_exceptions=f"{HEAVY}=100000/1")
    await fill_budget(harness)
    await set_free(harness, disk, 0)
    assert (await post(harness, HEAVY, LEAD)).code == 201


@pytest.mark.parametrize(
    ("filler", "other", "status"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", 503),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", 201),
        (HEAVY, f"::ffff:{HEAVY}", 503),
        (HEAVY, "203.0.113.8", 201),
    ],
)
async def test_C32_budget_is_by_ipv4_address_or_64(
    start_harness: StartHarness, disk: Disk, filler: str, other: str, status: int
) -> None:
    harness = await start_harness(**PROXY)
    await fill_budget(harness, filler)
    await set_free(harness, disk, 0)
    assert (await post(harness, other, LEAD)).code == status


async def test_C32_a_lead_that_is_not_stored_is_not_counted(start_harness: StartHarness, disk: Disk) -> None:
    harness = await start_harness(**PROXY)
    for _ in range(30):
        assert (await post(harness, HEAVY, Idempotency_Key="one")).code == 201  # one lead, and its retries
        assert (await post(harness, HEAVY, {**LARGE, "token": "x"}, Idempotency_Key="one")).code in (201, 422)
        assert (await post(harness, HEAVY, Prefer="dry-run")).code == 200
        assert (await post(harness, HEAVY, {"padding": "x" * 60_000})).code == 400
    await set_free(harness, disk, 0)
    assert (await post(harness, HEAVY, LEAD)).code == 201


async def test_C32_disk_that_cannot_be_measured_refuses_nothing(
    start_harness: StartHarness, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    harness = await start_harness(**PROXY)
    await fill_budget(harness)
    await set_free(harness, disk, 0)
    assert (await post(harness, HEAVY, LEAD)).code == 503
    await set_free(harness, disk, OSError(5, "Input/output error"))
    await set_free(harness, disk, OSError(5, "Input/output error"))
    assert (await post(harness, HEAVY, LEAD)).code == 201
    [failure] = [record for record in caplog.records if "can't be measured" in record.getMessage()]
    assert vars(failure)["reason"] == "Input/output error"
    await set_free(harness, disk, 0)
    assert (await post(harness, HEAVY, LEAD)).code == 503


async def test_C32_refusals_are_counted_in_few_writes(
    start_harness: StartHarness, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = await start_harness(**PROXY)
    await fill_budget(harness)
    await set_free(harness, disk, 0)
    writes = 0

    def counted(events: Any) -> Any:
        nonlocal writes
        writes += 1
        return add_counts(events)

    monkeypatch.setattr("jobs.daily_counter.add_counts", counted)
    for _ in range(50):
        assert (await post(harness, HEAVY, LEAD)).code == 503
    while not await refusals(harness):  # until the write is committed
        await asyncio.sleep(0.005)
    assert (writes, await refusals(harness)) == (1, 1)
    await harness.server.counter.flush()
    while await refusals(harness) == 1:
        await asyncio.sleep(0.005)
    assert (writes, await refusals(harness)) == (2, 50)
    assert (await post(harness, HEAVY, LEAD)).code == 503
    await harness.restart(**PROXY)
    assert await refusals(harness) == 51


async def test_count_that_can_not_be_written_is_kept(
    start_harness: StartHarness, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = await start_harness(**PROXY)
    await fill_budget(harness)
    await set_free(harness, disk, 0)
    async with held(harness):
        monkeypatch.setattr(harness.queue, "_queue_size", 0)
        for _ in range(5):
            assert (await post(harness, HEAVY, LEAD)).code == 503
        await harness.server.counter.flush()
        monkeypatch.undo()
    await harness.server.counter.flush()
    await harness.restart(**PROXY)
    assert await refusals(harness) == 5


# ---- the monitor


async def test_C32_disk_that_hangs_is_asked_once_and_refuses_nothing(
    io_loop: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk_monitor, "TIMEOUT_SECONDS", 0.01)
    answer, asked = threading.Event(), 0

    def measure() -> DiskSpace:
        nonlocal asked
        asked += 1
        answer.wait()
        return DiskSpace(0, 100 * GIB)

    budget = SpaceBudget()
    budget.is_low = True  # as measured before
    monitor = DiskMonitor(measure, budget)
    for _ in range(5):
        await monitor.check()
    assert asked == 1 and not budget.is_low
    assert len(caplog.records) == 1 and vars(caplog.records[0])["reason"] == "the disk does not answer"
    answer.set()
    monkeypatch.setattr(disk_monitor, "TIMEOUT_SECONDS", 60)
    await monitor.check()
    assert budget.is_low


@pytest.mark.parametrize(
    ("free", "total", "is_low"),
    [
        (GIB - 1, 100 * GIB, True),
        (GIB, 100 * GIB, False),
        (GIB, 10_000 * GIB, False),
        (3 * MIB, 64 * MIB, True),
        (4 * MIB, 64 * MIB, False),
        (0, 4 * MIB, True),
        (0, 0, False),  # some network disks tell no size
    ],
)
def test_disk_is_low_below_a_gigabyte_or_a_twentieth(free: int, total: int, is_low: bool) -> None:
    assert DiskSpace(free, total).is_low is is_low


# ---- the budget


def low_budget(**options: int) -> SpaceBudget:
    budget = SpaceBudget(**options)
    budget.is_low = True
    return budget


def test_C32_budget_takes_340_leads_of_an_honest_size() -> None:
    budget = low_budget()
    leads = 0
    while budget.allows(HONEST, NOW):
        budget.add(HONEST, 1_000, NOW)
        leads += 1
    assert leads == BUDGET_BYTES // (1_000 + ROW_BYTES) + 1 > 340


def test_C32_many_sources_do_not_evict_a_heavy_one() -> None:
    budget = low_budget(max_sources=100)
    budget.add(HEAVY, 2 * MIB, NOW)
    for number in range(10_000):
        budget.add(f"source {number}", 60_000, NOW)
        assert len(budget) <= 100
    assert not budget.allows(HEAVY, NOW)


@pytest.mark.parametrize("days", [1, 400, -1])
def test_C32_another_day_forgets_all_sources(days: int) -> None:
    budget = low_budget()
    budget.add(HEAVY, 2 * MIB, NOW)
    assert not budget.allows(HEAVY, NOW)
    other_day = NOW + timedelta(days=days)
    assert budget.allows(HEAVY, other_day)
    budget.add(HONEST, 1, other_day)
    assert len(budget) == 1


def test_C32_source_that_many_clients_share_is_not_counted() -> None:
    budget = low_budget()
    budget.add(None, 2 * MIB, NOW)
    assert budget.allows(None, NOW) and len(budget) == 0


# ---- the doctor


@pytest.mark.parametrize("total", [4 * MIB, 10 * GIB, 20 * GIB, 10_000 * GIB])
def test_doctor_warns_no_later_than_leads_are_refused(total: int) -> None:
    reserve = DiskSpace(0, total).reserve_bytes
    low = check_space("the data", reserve - 1, 0, None, reserve)
    assert low.state in (WARNING, PROBLEM) and "now the server refuses leads" in low.found
    enough = check_space("the data", max(reserve, GIB - 1), 0, None, reserve)
    assert enough.state in (OK, WARNING)
    assert (enough.state == WARNING) == ("the server refuses leads" in enough.found)


@pytest.mark.sqlite("the doctor on PostgreSQL is tested in test_postgresql_doctor.py")
async def test_doctor_names_refused_leads_and_the_low_disk(tmp_path: Path, io_loop: object) -> None:
    commands = Commands(tmp_path / "data")
    commands.leads({})
    now = Clock().now()
    with commands.database():
        add_counts([(REFUSED_FOR_SPACE, now - timedelta(days=days), 7) for days in (0, 1, 2)])
    said = await report(data_dir=str(commands.data_dir))
    [refused] = [row for row in said.of("disk space") if "refused since yesterday" in row["found"]]
    assert refused["state"] == WARNING and refused["found"].startswith("14 leads refused")
    assert "LEADS_RATE_LIMIT_EXCEPTIONS" in refused["remedy"]
