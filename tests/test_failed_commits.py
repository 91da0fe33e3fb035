"""Commits that the disk fails: their outcome is unknown, so the server stores nothing until a restart."""

import asyncio
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import Commands
from conftest import LEADS, ServerHarness, StartHarness, held, queued
from disk import give_order
from launched_server import LAUNCHER
from server_process import environment, started
from test_process import curl

from models.lead_record import list_leads
from server import EXIT_DISK_FAILED

pytestmark = pytest.mark.sqlite("a commit on PostgreSQL fails otherwise; see test_postgresql_storage.py")

LEAD = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}
UNKNOWN = (
    "the disk failed; the lead may be stored or not, and is safe to send again if it has an Idempotency-Key"
)
NOT_STORED = "the server can't store leads now; the lead was not stored"
FILE_SIZE = resource.RLIMIT_FSIZE


@contextmanager
def failing_writes() -> Iterator[None]:
    """Make the system refuse this process, which runs the server too, all file writes past the first byte.

    SQLite sees an I/O error, not a full disk, whose transaction it would roll back.
    """
    before = resource.getrlimit(FILE_SIZE)
    resource.setrlimit(FILE_SIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(FILE_SIZE, before)


async def harness_without_destinations(start_harness: StartHarness) -> ServerHarness:
    """Start a harness without destinations, so that leads are the only writes."""
    harness = await start_harness(rate_limit="100000/1", smtp_url="", june_homes_url="")
    await harness.building(websites=["https://maple.test"])
    return harness


def refusal(response: Any) -> tuple[int, str, str]:
    return response.code, response.headers["Retry-After"], json.loads(response.body)["error"]


async def test_C32_failed_commit_is_503_with_unknown_outcome(
    start_harness: StartHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness = await harness_without_destinations(start_harness)
    assert not harness.server.storage.failed.is_set()
    with failing_writes():
        response = await harness.post(LEAD, Origin="https://maple.test")
    assert refusal(response) == (503, "10", UNKNOWN)
    assert response.headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert harness.server.storage.failed.is_set()
    [line] = [record for record in caplog.records if record.getMessage() == "a commit failed"]
    assert (line.__dict__["reason"], line.__dict__["writes"]) == ("disk I/O error", 1)


async def test_C32_failed_commit_fails_every_lead_of_its_batch(start_harness: StartHarness) -> None:
    harness = await harness_without_destinations(start_harness)
    with failing_writes():
        async with held(harness):
            posts = [asyncio.ensure_future(harness.post(LEAD)) for _ in range(10)]
            await queued(harness, len(posts))
        answers = [await post for post in posts]
    assert {refusal(answer) for answer in answers} == {(503, "10", UNKNOWN)}


async def test_C32_failed_commit_stops_all_writes_until_restart(
    start_harness: StartHarness,
) -> None:
    harness = await harness_without_destinations(start_harness)
    await harness.lead(token="maple")
    with failing_writes():
        assert (await harness.post(LEAD)).code == 503
    files = [harness.data_dir / name for name in ("leads.db", "leads.db-wal")]
    before = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    for _ in range(3):
        assert refusal(await harness.post(LEAD)) == (503, "5", NOT_STORED)
    assert (await harness.request("GET", "/readyz")).code == 503
    assert (await harness.request("GET", "/livez")).code == 200
    assert [(file.stat().st_size, file.stat().st_mtime_ns) for file in files] == before
    assert [lead["id"] for lead in await harness.leads()] == [1]  # reads still work


async def test_C20_C32_retry_after_restart_stores_one_lead(
    start_harness: StartHarness,
) -> None:
    harness = await harness_without_destinations(start_harness)
    await harness.lead(token="maple")
    with failing_writes():
        assert (await harness.post(LEAD, Idempotency_Key="one")).code == 503
    await harness.restart(rate_limit="100000/1", smtp_url="", june_homes_url="")
    assert not harness.server.storage.failed.is_set()
    ids = [json.loads((await harness.post(LEAD, Idempotency_Key="one")).body)["id"] for _ in range(2)]
    assert ids[0] == ids[1]
    leads = await harness.leads()
    assert [lead["id"] for lead in leads] == [1, ids[0]]
    assert all(lead["deal"] and lead["deliveries"] for lead in leads)
    assert (await harness.request("GET", "/readyz")).code == 200


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limiting another process needs Linux")
def test_C32_failed_commit_exits_with_status_74(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data")
    commands.run("building", "add", "--name", "Maple", "--token", "maple", "--agent-email", "a@b.test")
    assert EXIT_DISK_FAILED == 74
    with started("serve", data_dir=str(commands.data_dir)) as server:
        assert curl(server.url + LEADS, LEAD) == (201, b'{"id": 1}')
        resource.prlimit(server.process.pid, FILE_SIZE, (1, resource.getrlimit(FILE_SIZE)[1]))
        status, body = curl(server.url + LEADS, LEAD)
        assert (status, json.loads(body)) == (503, {"error": UNKNOWN})
        assert server.process.wait(30) == 74
        rest = server.process.stdout.read() if server.process.stdout else ""
    assert "the disk failed a commit; stopping, to be started anew" in rest
    assert "Traceback" not in rest
    with started("serve", data_dir=str(commands.data_dir)) as server:
        assert curl(server.url + LEADS, LEAD)[0] == 201
    with commands.database():
        leads = list(list_leads(newest_first=False))
    assert leads[0]["id"] == 1 and all(lead["deal"] and lead["deliveries"] for lead in leads)


def test_C32_disk_failure_at_startup_exits_with_status_74(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data")
    commands.run("building", "add", "--name", "Maple")
    give_order(tmp_path, fail="sync EIO", times=10**6)
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), "serve"],
        env=environment(data_dir=str(commands.data_dir), port="0")
        | {"FAULT_FOLDER": str(tmp_path), "FAULT_DISK": "plain"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 74
    assert "the disk failed a commit; stopping, to be started anew" in done.stderr
    assert "Traceback" not in done.stderr
