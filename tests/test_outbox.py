"""The outbox: deliveries after a 201, retries, circuit breakers, independence of destinations."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import databases
import pytest
from command_line import ACTOR
from conftest import ServerHarness, StartHarness, SteppedClock, until

from jobs import clock_monitor, dispatcher
from jobs.clock_monitor import ClockMonitor, cap_all_due_times
from models.building_actions import update_building
from models.customer import flag_spam
from models.erasure import erase_customer
from models.errors import ActionError
from models.outbox import actions, claims, clock_changes, destination, outcomes
from models.outbox.clock_changes import cap_due_times
from models.outbox.delivery import ERASED, Delivery, DeliveryAttempt
from models.storage import StorageError


async def test_C22_agent_of_the_building_gets_one_email(harness: ServerHarness) -> None:
    await harness.lead(token="maple", requestor_name="Jane Doe")
    assert await harness.settled() == [
        {
            "id": 1,
            "lead_id": 1,
            "kind": "email",
            "content": "lead",
            "recipient": "agent@maple.test",
            "state": "delivered",
            "attempts": 1,
            "reason": None,
            "answer": "250 OK",
            "due_at": None,
            "settled_at": "2026-11-23T15:00:00.000000Z",
        }
    ]
    assert harness.mail.recipients == [["agent@maple.test"]]
    assert "Jane Doe" in harness.mail.mails[0]["Subject"]
    assert "jane@renter.test" in harness.mail.mails[0]["Reply-To"]
    assert "renter.test" not in harness.mail.mails[0]["From"]


async def test_C22_skip_reason_is_kept_with_the_lead(harness: ServerHarness) -> None:
    await harness.building(token="mute", agent_email=None)
    await harness.lead(token="maple")
    await harness.change(lambda: flag_spam(ACTOR, 1, True, harness.clock.now()))
    ids = [
        await harness.lead(token="maple"),
        await harness.lead(token="mute", requestor_email="b@renter.test"),
        await harness.lead(requestor_email="c@renter.test"),
    ]
    reasons = [(await harness.stored(lead_id))["deliveries"] for lead_id in ids]
    assert reasons == [
        [{"kind": "email", "state": "skipped", "attempts": 0, "reason": reason}]
        for reason in (
            "the customer is flagged as spam",
            "the building has no agent e-mail",
            "no building matched",
        )
    ]
    await harness.settled()
    assert len(harness.mail.mails) == 1


async def test_C23_only_june_homes_leads_go_to_june_homes(harness: ServerHarness) -> None:
    await harness.lead(token="maple", listing_source="zillow")
    await harness.lead(token="maple", listing_source="june_homes")
    assert len(await harness.settled(state="delivered")) == 3
    assert len(harness.partner.calls) == 1


async def test_C24_dead_mail_server_does_not_delay_june_homes(start_harness: StartHarness) -> None:
    harness = await start_harness(smtp_url="smtp://127.0.0.1:1")
    await harness.building()
    for _ in range(20):
        await harness.lead(token="maple", listing_source="june_homes")
    await harness.settled()
    assert len(harness.partner.calls) == 20
    mails = await harness.deliveries(kind="email")
    assert {mail["state"] for mail in mails} == {"pending"}
    assert sum(mail["attempts"] for mail in mails) <= 4
    assert (await harness.destination("email"))["waits_because"].startswith("held until 2026-11-23T15:00:0")


async def test_C24_slow_mail_server_does_not_delay_june_homes(harness: ServerHarness) -> None:
    harness.mail.gate.clear()
    for _ in range(20):
        await harness.lead(token="maple", listing_source="june_homes")
    await until(lambda: len(harness.partner.calls) == 20)
    assert harness.mail.mails == []
    harness.mail.gate.set()
    assert len(await harness.settled(kind="email", state="delivered")) == 20


async def test_C24_transient_failure_backs_off_for_more_than_72_hours(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    harness.mail.replies = ["451 come back later"] * 1_000
    began = clock.now()
    await harness.lead(token="maple")
    waits = []
    while (delivery := (await harness.settled())[0])["state"] == "pending":
        waits.append(datetime.fromisoformat(delivery["due_at"]) - clock.now())
        clock.step(waits[-1].total_seconds() - 0.001)
        assert (await harness.settled())[0]["attempts"] == len(waits), "it was tried too early"
        clock.step(0.002)
    assert (delivery["state"], delivery["attempts"]) == ("failed", len(outcomes.RETRY_DELAYS) + 1)
    assert "451 come back later" in delivery["reason"]
    assert clock.now() - began >= timedelta(hours=72)
    for wait, delay in zip(waits, outcomes.RETRY_DELAYS, strict=True):
        assert delay <= wait <= delay * (1 + destination.JITTER)
    assert len({wait / delay for wait, delay in zip(waits, outcomes.RETRY_DELAYS, strict=True)}) > 1, (
        "no jitter"
    )


async def test_C24_failed_delivery_can_be_retried(harness: ServerHarness) -> None:
    harness.mail.replies = ["554 5.6.0 no"]
    await harness.lead(token="maple")
    assert (await harness.settled())[0]["state"] == "failed"
    await harness.change(lambda: actions.retry_failed(ACTOR, None, harness.clock.now()))
    delivery = (await harness.settled())[0]
    assert (delivery["state"], delivery["attempts"], len(harness.mail.mails)) == ("delivered", 2, 1)


async def test_C24_skipped_lead_can_be_sent_once_an_agent_exists(
    harness: ServerHarness,
) -> None:
    await harness.building(token="mute", agent_email=None)
    await harness.lead(token="mute")
    await harness.change(
        lambda: update_building(ACTOR, 2, {"agent_email": "new@maple.test"}, harness.clock.now())
    )
    await harness.change(lambda: actions.retry_deliveries(ACTOR, [1], harness.clock.now()))
    assert (await harness.settled())[0]["state"] == "delivered"
    assert harness.mail.recipients == [["new@maple.test"]]


@pytest.mark.parametrize("state", ["delivered", "none"])
async def test_delivered_or_unknown_delivery_can_not_be_retried(harness: ServerHarness, state: str) -> None:
    await harness.lead(token="maple")
    await harness.settled()
    with pytest.raises(ActionError):
        await harness.change(
            lambda: actions.retry_deliveries(ACTOR, [1 if state == "delivered" else 9], harness.clock.now())
        )


async def test_resent_mail_has_the_same_message_id_and_bytes(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    await harness.lead(token="maple", requestor_name="Jane", slot="2026-12-01T10:00", message="héllo")
    await harness.settled()
    await harness.change(lambda: Delivery.update(state="pending", due_at=clock.now()).execute())
    clock.step(3_600)
    await harness.restart()
    await harness.settled()
    first, second = harness.mail.raw
    assert first == second
    assert harness.mail.mails[0]["Message-ID"] == harness.mail.mails[1]["Message-ID"]


async def test_mail_without_a_server_waits_until_one_is_configured(
    start_harness: StartHarness,
) -> None:
    harness = await start_harness(smtp_url="", june_homes_url="")
    await harness.building()
    for _ in range(5):
        await harness.lead(token="maple", listing_source="june_homes")
    waiting = await harness.settled()
    assert {(d["state"], d["attempts"]) for d in waiting} == {("pending", 0)}
    assert {d["reason"] for d in waiting} == {
        "no destination: LEADS_SMTP_URL is not set",
        "no destination: LEADS_JUNE_HOMES_URL is not set",
    }
    await harness.restart()
    assert len(await harness.settled(state="delivered")) == 10
    assert (len(harness.mail.mails), len(harness.partner.calls)) == (5, 5)


@pytest.mark.parametrize("sender", ["", "leads@localhost", "leads@3f2a9c1b2d4e"])
async def test_mail_without_a_sender_waits_until_one_is_set(sender: str, start_harness: StartHarness) -> None:
    harness = await start_harness(mail_from=sender)
    await harness.building()
    await harness.lead(token="maple", listing_source="june_homes")
    [mail] = await harness.settled(kind="email")
    fault = f"is {sender}, which other mail servers don't know" if sender else "is not set"
    assert (mail["state"], mail["reason"]) == ("pending", f"no sender: LEADS_MAIL_FROM {fault}")
    assert len(harness.partner.calls) == 1 and not harness.mail.mails
    await harness.restart(mail_from="leads@office.test")
    await harness.settled(state="delivered")
    assert len(harness.mail.mails) == 1


async def test_unreachable_destination_is_probed_by_one_delivery_at_a_time(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    await harness.mail.stop()
    for _ in range(30):
        await harness.lead(token="maple")
    await harness.settled()
    for probes in range(1, 12):
        attempts = sum(d["attempts"] for d in await harness.settled())
        clock.step(361)  # longer than the longest hold with jitter
        await harness.settled()
        assert sum(d["attempts"] for d in await harness.deliveries()) == attempts + 1, probes
    assert {d["state"] for d in await harness.deliveries()} == {"pending"}


async def test_recovered_destination_gets_all_waiting_deliveries(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await start_harness()
    await harness.building()
    harness.mail.replies = ["421 shutting down"] * 4
    for _ in range(30):
        await harness.lead(token="maple")
    await harness.settled()
    assert len(harness.mail.mails) < 30
    for _ in range(20):
        clock.step(361)
        await harness.settled()
    assert len(await harness.deliveries(state="delivered")) == 30
    assert (await harness.destination("email"))["waits_because"] is None


async def test_paused_destination_sends_nothing_until_resumed(harness: ServerHarness) -> None:
    await harness.change(lambda: actions.pause(ACTOR, "email", harness.clock.now()))
    await harness.lead(token="maple", listing_source="june_homes")
    await harness.settled()
    assert (len(harness.mail.mails), len(harness.partner.calls)) == (0, 1)
    assert (await harness.destination("email"))["waits_because"] == "paused by the operator"
    await harness.restart()
    await harness.settled()
    assert harness.mail.mails == []
    await harness.change(lambda: actions.resume(ACTOR, "email", harness.clock.now()))
    await harness.settled()
    assert len(harness.mail.mails) == 1


async def test_stop_lets_running_deliveries_finish(harness: ServerHarness) -> None:
    harness.mail.gate.clear()
    await harness.lead(token="maple")
    await until(lambda: harness.server.dispatcher._workers[0]._running)
    stopping = asyncio.create_task(harness.server.stop())
    await asyncio.sleep(0.05)
    harness.mail.gate.set()
    await stopping
    await harness.start()
    assert [(d["state"], d["attempts"]) for d in await harness.settled()] == [("delivered", 1)]
    assert len(harness.mail.mails) == 1


@pytest.mark.sqlite("on PostgreSQL another server may be sending it, until its lease ends")
async def test_delivery_left_sending_by_a_crash_is_sent_at_start(harness: ServerHarness) -> None:
    await harness.lead(token="maple")
    await harness.settled()

    def leave_as_after_a_crash() -> None:
        Delivery.update(state="sending", attempts=2, due_at=harness.clock.now()).execute()
        DeliveryAttempt.insert(delivery=1, number=2, started_at=harness.clock.now()).execute()

    await harness.change(leave_as_after_a_crash)
    await harness.restart()
    assert [(d["state"], d["attempts"]) for d in await harness.settled()] == [("delivered", 3)]
    outcomes = [attempt["outcome"] for attempt in (await harness.stored(1))["attempts"]]
    assert outcomes == ["delivered", claims.CUT_OFF, "delivered"]


async def test_mail_of_an_erased_customer_does_not_leave(harness: ServerHarness) -> None:
    await harness.change(lambda: actions.pause(ACTOR, "email", harness.clock.now()))
    await harness.lead(token="maple")
    await harness.change(lambda: erase_customer(ACTOR, 1, harness.clock.now()))
    await harness.change(lambda: actions.resume(ACTOR, "email", harness.clock.now()))
    assert [(d["state"], d["reason"]) for d in await harness.settled()] == [("skipped", ERASED)]
    with pytest.raises(ActionError, match="erased"):
        await harness.change(lambda: actions.retry_deliveries(ACTOR, [1], harness.clock.now()))
    assert harness.mail.mails == []


async def test_attempts_of_a_lead_are_kept(harness: ServerHarness, clock: SteppedClock) -> None:
    harness.mail.replies = ["451 later"]
    await harness.lead(token="maple")
    await harness.settled()
    clock.step(20)
    await harness.settled()
    first, second = (await harness.stored(1))["attempts"]
    assert (first["number"], second["number"]) == (1, 2)
    assert "451 later" in first["outcome"]
    assert second["outcome"] == "delivered"


async def test_reply_about_a_customer_erased_meanwhile_is_not_kept(harness: ServerHarness) -> None:
    harness.mail.gate.clear()
    harness.mail.replies = ["451 Jane who?"]
    await harness.lead(token="maple")
    await until(lambda: harness.server.dispatcher._workers[0]._running)
    while (await harness.deliveries())[0]["state"] != "sending":
        await asyncio.sleep(0.005)
    await harness.change(lambda: erase_customer(ACTOR, 1, harness.clock.now()))
    harness.mail.gate.set()
    await until(lambda: not harness.server.dispatcher._workers[0]._running)
    assert [(d["state"], d["reason"]) for d in await harness.deliveries()] == [("skipped", ERASED)]
    assert [a["outcome"] for a in (await harness.stored(1))["attempts"]] == [ERASED]


async def test_erasure_removes_the_reason_of_a_hold(harness: ServerHarness) -> None:
    harness.mail.replies = ["421 Jane who?"]
    await harness.lead(token="maple")
    await harness.settled()
    assert "Jane who?" in (await harness.destination("email"))["waits_because"]
    await harness.change(lambda: erase_customer(ACTOR, 1, harness.clock.now()))
    assert (await harness.destination("email"))["waits_because"].endswith(ERASED)


async def test_clock_monitor_goes_on_after_an_error(
    harness: ServerHarness, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_monitor, "CHECK_SECONDS", 0.001)
    checks = []

    def wake() -> None:
        checks.append(1)
        raise OverflowError

    task = asyncio.create_task(clock_monitor.monitor_clock(clock, harness.server.storage, wake, wake))
    await until(lambda: len(checks) > 3)
    task.cancel()


async def test_clock_monitor_wakes_the_outbox_without_the_scheduler(
    start_harness: StartHarness, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_monitor, "CHECK_SECONDS", 0.01)
    harness = await start_harness()
    await harness.building()
    harness.server._scheduler.pause()
    harness.mail.replies = ["451 later"]
    await harness.lead(token="maple")
    while (await harness.deliveries())[0]["attempts"] == 0 or (await harness.deliveries())[0][
        "state"
    ] == "sending":
        await asyncio.sleep(0.005)
    clock.step(20)
    while not harness.mail.mails:
        await asyncio.sleep(0.005)


async def test_success_of_an_earlier_delivery_does_not_end_a_hold(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    harness.mail.gate.clear()
    for _ in range(2):
        await harness.lead(token="maple")
    await until(lambda: len(harness.server.dispatcher._workers[0]._running) == 2)
    harness.mail.replies = ["421 too much"]
    harness.mail.gate.set()
    rows = await harness.settled()
    assert sorted(row["state"] for row in rows) == ["delivered", "pending"]
    assert "421 too much" in (await harness.destination("email"))["waits_because"]


async def test_one_mail_always_answered_421_does_not_block_others(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    await harness.building(token="oak", agent_email="bad@oak.test")
    harness.mail.refused = {"bad@oak.test": "421 go away"}
    await harness.lead(token="oak")
    while (await harness.settled())[0]["state"] == "pending":
        clock.step(900)
        good = await harness.lead(token="maple")
        clock.step(900)
        await harness.settled()
        clock.step(900)
        await harness.settled()
        assert (await harness.stored(good))["deliveries"][0]["state"] == "delivered"
    assert (await harness.deliveries())[0]["state"] == "failed"


@pytest.mark.sqlite("the clock is that of PostgreSQL, which no server may take for set")
async def test_clock_set_back_an_hour_delays_nothing(harness: ServerHarness, clock: SteppedClock) -> None:
    monitor = ClockMonitor(
        clock, harness.server.storage, harness.server.dispatcher.wake, harness.server._reschedule_jobs
    )
    harness.mail.replies = ["451 later", "421 closing"]
    await harness.lead(token="maple")
    await harness.lead(token="maple", listing_source="june_homes")
    await harness.settled()
    clock.set_time_of_day(-3_600)
    await monitor.check()
    clock.step(20)  # their delay if the clock had not been set
    await monitor.check()
    assert {d["state"] for d in await harness.settled()} == {"delivered"}
    assert len(harness.mail.mails) == 2


async def test_clock_set_forward_an_hour_makes_retries_due(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    monitor = ClockMonitor(
        clock, harness.server.storage, harness.server.dispatcher.wake, harness.server._reschedule_jobs
    )
    harness.mail.replies = ["451 later"]
    await harness.lead(token="maple")
    await harness.settled()
    clock.set_time_of_day(3_600)
    await monitor.check()
    assert {d["state"] for d in await harness.settled()} == {"delivered"}


@pytest.mark.parametrize("ahead", [3_600, 10 * 365 * 86_400])
async def test_deliveries_delayed_by_a_clock_ahead_leave_at_start(
    harness: ServerHarness, clock: SteppedClock, ahead: int
) -> None:
    clock.set_time_of_day(ahead)
    harness.mail.replies = ["451 later"]
    await harness.lead(token="maple")
    await harness.settled()
    clock.set_time_of_day(-ahead)
    await harness.restart()
    assert [d["state"] for d in await harness.settled()] == ["delivered"]


async def test_failed_settlement_is_retried_until_stored(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = outcomes.settle, [ValueError("odd"), StorageError("disk I/O error")]

    def settle(ended: Sequence[Sequence[outcomes.Outcome]]) -> list[list[str]]:
        if failures:
            raise failures.pop()
        return real(ended)

    monkeypatch.setattr(dispatcher, "settle", settle)
    monkeypatch.setattr(dispatcher, "SETTLE_RETRY_SECONDS", 0.01)
    await harness.lead(token="maple")
    assert [(d["state"], d["attempts"]) for d in await harness.settled()] == [("delivered", 1)]
    assert len(harness.mail.mails) == 1


async def test_unreadable_lead_fails_without_blocking_others(harness: ServerHarness) -> None:
    await harness.change(lambda: actions.pause(ACTOR, "email", harness.clock.now()))
    bad, good = [await harness.lead(token="maple", utm_data="utm_source=x") for _ in range(2)]
    databases.query(harness.data_dir, "UPDATE lead SET utm_data = '{' WHERE id = ?", bad)
    await harness.change(lambda: actions.resume(ACTOR, "email", harness.clock.now()))
    states = {d["lead_id"]: (d["state"], d["reason"]) for d in await harness.settled()}
    assert states == {bad: ("failed", "the lead can't be read"), good: ("delivered", None)}


async def test_claim_that_the_disk_failed_is_retried(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fail(lead_ids: object) -> None:
        asked.append(lead_ids)
        raise databases.STORAGE_FAILURE("disk I/O error")

    await harness.change(lambda: actions.pause(ACTOR, "email", harness.clock.now()))
    await harness.lead(token="maple")
    with monkeypatch.context() as broken:
        broken.setattr("models.lead_record._load", fail)
        await harness.change(lambda: actions.resume(ACTOR, "email", harness.clock.now()))
        await until(lambda: asked)
    assert [(d["state"], d["attempts"]) for d in await harness.settled()] == [("delivered", 1)]


async def test_deliveries_due_too_late_are_corrected_few_at_a_time(
    harness: ServerHarness, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_changes, "CAPPED_AT_ONCE", 2)
    harness.server.dispatcher._workers[0].wake = lambda: None  # type: ignore[method-assign]
    for _ in range(5):
        await harness.lead(token="maple")
    storage, now = harness.server.storage, clock.now()

    async def due_later() -> int:
        later = Delivery.select().where(Delivery.due_at > now)
        return await storage.read(later.count)

    async def delay() -> None:
        await harness.change(lambda: Delivery.update(due_at=now + timedelta(hours=1)).execute())

    await delay()
    assert await storage.write(cap_due_times, now) is True
    assert await due_later() == 3
    assert [await storage.write(cap_due_times, now) for _ in range(3)] == [True, False, False]
    await delay()
    await cap_all_due_times(storage, clock)
    assert await due_later() == 0
