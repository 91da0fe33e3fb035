"""Two servers on one PostgreSQL, whole: what a server does for another that died, or was too slow."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from command_line import ACTOR
from conftest import ServerHarness, StartHarness, SteppedClock, until
from postgresql import NOT_FOUND, binaries, database_url, forget
from server_process import started

from jobs import leases
from models.building_actions import add_building
from models.outbox.claims import CUT_OFF
from models.outbox.delivery import Delivery
from models.outbox.leases import Lease, take_over

pytestmark = pytest.mark.skipif(binaries() is None, reason=NOT_FOUND)

SECRET = "c2VjcmV0IGZvciB0d28gc2VydmVycyBvbiBvbmUgZGI="
MINUTE = 60
LEAD = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    yield database_url(tmp_path)
    forget(tmp_path)


@pytest.fixture
def pair(
    url: str, start_harness: StartHarness, io_loop: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[ServerHarness, ServerHarness]:
    """Two servers on one database, each with a mail server of its own."""
    monkeypatch.setattr(leases, "LOOK_SECONDS", 0.02)

    async def start() -> tuple[ServerHarness, ServerHarness]:
        options = {"database_url": url, "secret": SECRET, "rate_limit": "100000/1"}
        first, second = [await start_harness(**options) for _ in range(2)]
        fields = {"name": "The Maple", "agent_email": "agent@maple.test"}
        await first.server.storage.write(add_building, ACTOR, fields, "maple", first.clock.now())
        return first, second

    found: tuple[ServerHarness, ServerHarness] = io_loop.run_sync(start)
    return found


async def sending(harness: ServerHarness) -> None:
    """Wait until the only delivery is on its way to this server's mail server."""
    while not harness.server.dispatcher._workers[0]._running:
        await asyncio.sleep(0.005)


async def stuck(pair: tuple[ServerHarness, ServerHarness]) -> None:
    """Have the first server send a mail that gets no reply, and the second one wait."""
    first, second = pair
    second.server.dispatcher._workers[0].wake = lambda: None  # type: ignore[method-assign]
    second.server.dispatcher._workers[0]._awake.clear()
    first.mail.gate.clear()
    await first.lead(token="maple")
    await sending(first)
    del second.server.dispatcher._workers[0].wake


def message_ids(*harnesses: ServerHarness) -> list[tuple[str, str]]:
    mails = [mail for harness in harnesses for mail in harness.mail.mails]
    return [(mail["Message-ID"], mail["Date"]) for mail in mails]


async def test_lease_of_a_long_delivery_is_renewed(
    pair: tuple[ServerHarness, ServerHarness], clock: SteppedClock
) -> None:
    await stuck(pair)
    first, second = pair
    for _ in range(5):
        before = (await first.server.storage.read(Delivery.get_by_id, 1)).claimed_until
        clock.step(20)
        while (await first.server.storage.read(Delivery.get_by_id, 1)).claimed_until == before:
            await asyncio.sleep(0.005)
    first.mail.gate.set()
    [row] = await first.settled()
    assert (row["state"], row["attempts"], second.mail.mails) == ("delivered", 1, [])


async def test_a_slow_server_loses_its_claim_cleanly(
    pair: tuple[ServerHarness, ServerHarness], clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    await stuck(pair)
    first, second = pair
    assert first.server.dispatcher._leases._task is not None
    first.server.dispatcher._leases._task.cancel()  # as if the process was stopped
    clock.step(MINUTE)
    await until(lambda: second.mail.mails)
    [row] = await second.settled()
    assert (row["state"], row["attempts"]) == ("delivered", 2)
    first.mail.gate.set()
    await until(lambda: "another server took the delivery over" in caplog.text)
    [row] = await second.settled()
    assert (row["state"], row["attempts"]) == ("delivered", 2)
    attempts = (await second.stored(1))["attempts"]
    assert [(a["outcome"], a["answer"]) for a in attempts] == [("delivered", "250 OK")] * 2
    assert len(set(message_ids(first, second))) == 1


async def test_a_claim_that_was_over_before_it_began_is_left_alone(
    pair: tuple[ServerHarness, ServerHarness],
    clock: SteppedClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = pair
    leases_of_first = first.server.dispatcher._leases
    real, stalled = leases_of_first.begin, [True]

    def begin(claims: Any) -> bool:
        if stalled.pop() if stalled else False:
            clock.step(MINUTE)
        return real(claims)

    monkeypatch.setattr(leases_of_first, "begin", begin)
    monkeypatch.setattr(second.server.dispatcher._leases, "begin", begin)
    await first.lead(token="maple")
    [row] = await first.settled()
    assert "a claim was over before its delivery began" in caplog.text
    assert (row["state"], len(first.mail.mails) + len(second.mail.mails)) == ("delivered", 1)


async def test_a_stop_gives_the_deliveries_to_the_other_server(
    pair: tuple[ServerHarness, ServerHarness],
) -> None:
    await stuck(pair)
    first, second = pair
    await first.server.stop(finish_seconds=0.01)
    [row] = await second.settled()  # no time has passed
    assert (row["state"], row["attempts"], len(second.mail.mails)) == ("delivered", 2, 1)
    attempts = (await second.stored(1))["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == [CUT_OFF, "delivered"]
    await first.start(**{"database_url": "", "secret": SECRET})  # for the end of the test


async def test_one_probe_over_both_servers(
    pair: tuple[ServerHarness, ServerHarness], clock: SteppedClock
) -> None:
    first, second = pair
    for harness in pair:
        await harness.mail.stop()
    for harness in [first, second] * 10:
        await harness.lead(token="maple")
    await first.settled()
    for probes in range(1, 8):
        rows = await second.settled()
        attempts = sum(row["attempts"] for row in rows)
        clock.step(361)
        first.server.dispatcher.wake()
        second.server.dispatcher.wake()
        while sum(row["attempts"] for row in await first.deliveries()) == attempts:
            first.server.dispatcher.wake()
            second.server.dispatcher.wake()
            await asyncio.sleep(0.005)
        rows = await first.settled()
        assert sum(row["attempts"] for row in rows) == attempts + 1, probes
    assert {row["state"] for row in await first.deliveries()} == {"pending"}


async def test_C20_both_servers_hammered_with_the_same_leads(
    pair: tuple[ServerHarness, ServerHarness],
) -> None:
    answers: list[tuple[int, int, bytes]] = []

    async def client(number: int) -> None:
        for round in range(6):
            fields = {
                "requestor_email": f"r{round % 3}@renter.test",
                "requestor_phone": "+12125550123",
                "requestor_name": "Jane",
            }
            harness = pair[number % 2]
            response = await harness.post(
                {"token": "maple", "tour_request": fields}, Idempotency_Key=f"round-{round}"
            )
            answers.append((round, response.code, response.body))

    await asyncio.gather(*map(client, range(16)))
    assert Counter(code for _, code, _ in answers) == {201: 96}
    assert len({(round, body) for round, _, body in answers}) == 6
    first, second = pair
    await first.settled()
    assert len(await first.leads()) == 6
    assert len(first.mail.mails) + len(second.mail.mails) == 6
    assert {lead["customer"]["id"] for lead in await first.leads()} == {1}


@contextlib.asynccontextmanager
async def killed_while_sending(survivor: ServerHarness, url: str, folder: Path) -> AsyncIterator[None]:
    survivor.mail.gate.clear()
    with started(
        "serve",
        data_dir=str(folder / "killed"),
        database_url=url,
        secret=SECRET,
        smtp_url=survivor.mail.url,
        mail_from="leads@office.test",
    ) as program:
        response = await survivor.client.fetch(
            program.url + "/api/v1/website_leads",
            method="POST",
            body=b'{"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}',
            headers={"Content-Type": "application/json"},
        )
        assert response.code == 201
        while (await survivor.deliveries())[0]["state"] != "sending":
            await asyncio.sleep(0.01)
        await until(lambda: survivor.mail.at_once)
        yield
        program.process.kill()


async def test_claims_of_a_killed_server_are_taken_over_within_a_minute(
    url: str,
    start_harness: StartHarness,
    clock: SteppedClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[datetime] = []

    def noted(seen: set[Lease], now: datetime) -> tuple[list[int], set[Lease]]:
        found = take_over(seen, now)
        looked.append(now)
        return found

    async def looks(count: int) -> None:
        """Wait until the survivor has looked so often at what others have claimed, by the time that it is."""
        await until(lambda: looked.count(clock.now()) >= count)

    monkeypatch.setattr(leases, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(leases, "take_over", noted)
    clock._now = datetime.now(UTC)
    survivor = await start_harness(database_url=url, secret=SECRET)
    fields = {"name": "The Maple", "agent_email": "agent@maple.test"}
    await survivor.server.storage.write(add_building, ACTOR, fields, "maple", clock.now())
    async with killed_while_sending(survivor, url, tmp_path):
        first = await survivor.server.storage.read(Delivery.get_by_id, 1)
    clock.set_time_of_day((datetime.now(UTC) - clock.now()).total_seconds())
    clock.step(30)
    await looks(3)
    assert (await survivor.deliveries())[0]["attempts"] == 1  # not yet
    clock.step(25)
    survivor.mail.gate.set()
    [row] = await survivor.settled()
    assert (row["state"], row["attempts"]) == ("delivered", 2)
    again = await survivor.server.storage.read(Delivery.get_by_id, 1)
    assert again.sent_at == first.sent_at
    assert len(set(message_ids(survivor))) == 1
