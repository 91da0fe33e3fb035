"""What follows a 201: the outbox, its retries, and that no destination delays another."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import apsw
import pytest
from conftest import House, OpenHouse, SteppedClock, until

from jobs import dispatcher, watchdog
from jobs.watchdog import Watchdog
from models import destination, outbox, outbox_operator
from models.building import Refused, find_building, update_building
from models.customer import find_customer, flag_spam
from models.database import StorageError, database
from models.destination import pause, resume
from models.erasure import erase_customer


async def test_C22_the_buildings_agent_gets_one_email(house: House) -> None:
    await house.lead(token="maple", requestor_name="Jane Doe")
    assert await house.settled() == [
        {
            "id": 1,
            "lead_id": 1,
            "kind": "email",
            "state": "delivered",
            "attempts": 1,
            "reason": None,
            "due_at": None,
            "settled_at": "2026-11-23T15:00:00.000000Z",
        }
    ]
    assert house.mail.recipients == [["agent@maple.test"]]
    assert "Jane Doe" in house.mail.mails[0]["Subject"]
    assert "jane@renter.test" in house.mail.mails[0]["Reply-To"]
    assert "renter.test" not in house.mail.mails[0]["From"]


async def test_C22_why_nobody_is_notified_is_kept_with_the_lead(house: House) -> None:
    await house.building(token="mute", agent_email=None)
    await house.lead(token="maple")
    await house.change(lambda: flag_spam(find_customer(1), True))
    ids = [
        await house.lead(token="maple"),
        await house.lead(token="mute", requestor_email="b@renter.test"),
        await house.lead(requestor_email="c@renter.test"),
    ]
    reasons = [(await house.stored(lead_id))["deliveries"] for lead_id in ids]
    assert reasons == [
        [{"kind": "email", "state": "skipped", "attempts": 0, "reason": reason}]
        for reason in (
            "the customer is flagged as spam",
            "the building has no agent e-mail",
            "no building matched",
        )
    ]
    await house.settled()
    assert len(house.mail.mails) == 1


async def test_C23_only_june_homes_leads_go_to_june_homes(house: House) -> None:
    await house.lead(token="maple", listing_source="zillow")
    await house.lead(token="maple", listing_source="june_homes")
    assert len(await house.settled(state="delivered")) == 3
    assert len(house.partner.calls) == 1


async def test_C24_a_dead_mail_server_does_not_delay_june_homes(open_house: OpenHouse) -> None:
    house = await open_house(smtp_url="smtp://127.0.0.1:1")
    await house.building()
    for _ in range(20):
        await house.lead(token="maple", listing_source="june_homes")
    await house.settled()
    assert len(house.partner.calls) == 20
    mails = await house.deliveries(kind="email")
    assert {mail["state"] for mail in mails} == {"pending"}
    assert sum(mail["attempts"] for mail in mails) <= 4
    assert (await house.destination("email"))["waits_because"].startswith("held until 2026-11-23T15:00:0")


async def test_C24_a_slow_mail_server_does_not_delay_june_homes(house: House) -> None:
    house.mail.gate.clear()
    for _ in range(20):
        await house.lead(token="maple", listing_source="june_homes")
    await until(lambda: len(house.partner.calls) == 20)
    assert house.mail.mails == []
    house.mail.gate.set()
    assert len(await house.settled(kind="email", state="delivered")) == 20


async def test_C24_a_passing_failure_is_tried_again_with_backoff_for_more_than_72_hours(
    house: House, clock: SteppedClock
) -> None:
    house.mail.replies = ["451 come back later"] * 1_000
    began = clock.now()
    await house.lead(token="maple")
    waits = []
    while (delivery := (await house.settled())[0])["state"] == "pending":
        waits.append(datetime.fromisoformat(delivery["due_at"]) - clock.now())
        clock.step(waits[-1].total_seconds() - 0.001)
        assert (await house.settled())[0]["attempts"] == len(waits), "it was tried too early"
        clock.step(0.002)
    assert (delivery["state"], delivery["attempts"]) == ("failed", len(outbox.RETRY_DELAYS) + 1)
    assert "451 come back later" in delivery["reason"]
    assert clock.now() - began >= timedelta(hours=72)
    for wait, delay in zip(waits, outbox.RETRY_DELAYS, strict=True):
        assert delay <= wait <= delay * (1 + destination.JITTER)
    assert len({wait / delay for wait, delay in zip(waits, outbox.RETRY_DELAYS, strict=True)}) > 1, (
        "no jitter"
    )


async def test_C24_what_was_given_up_can_be_replayed(house: House) -> None:
    house.mail.replies = ["554 no"]
    await house.lead(token="maple")
    assert (await house.settled())[0]["state"] == "failed"
    await house.change(lambda: outbox_operator.retry_failed(None, house.clock.now()))
    delivery = (await house.settled())[0]
    assert (delivery["state"], delivery["attempts"], len(house.mail.mails)) == ("delivered", 2, 1)


async def test_C24_a_lead_nobody_was_notified_of_can_be_sent_once_there_is_somebody(house: House) -> None:
    await house.building(token="mute", agent_email=None)
    await house.lead(token="mute")
    await house.change(lambda: update_building(find_building(2), {"agent_email": "new@maple.test"}))
    await house.change(lambda: outbox_operator.retry_deliveries([1], house.clock.now()))
    assert (await house.settled())[0]["state"] == "delivered"
    assert house.mail.recipients == [["new@maple.test"]]


@pytest.mark.parametrize("state", ["delivered", "none"])
async def test_what_is_delivered_or_unknown_is_not_sent_again(house: House, state: str) -> None:
    await house.lead(token="maple")
    await house.settled()
    with pytest.raises(Refused):
        await house.change(
            lambda: outbox_operator.retry_deliveries([1 if state == "delivered" else 9], house.clock.now())
        )


async def test_a_resend_has_the_same_message_id_and_bytes(house: House, clock: SteppedClock) -> None:
    await house.lead(token="maple", requestor_name="Jane", slot="2026-12-01T10:00", message="héllo")
    await house.settled()
    await house.change(lambda: outbox.Delivery.update(state="pending", due_at=clock.now()).execute())
    clock.step(3_600)
    await house.restart()
    await house.settled()
    first, second = house.mail.raw
    assert first == second
    assert house.mail.mails[0]["Message-ID"] == house.mail.mails[1]["Message-ID"]


async def test_without_a_mail_server_mail_waits_visibly_and_leaves_once_there_is_one(
    open_house: OpenHouse,
) -> None:
    house = await open_house(smtp_url="", june_homes_url="")
    await house.building()
    for _ in range(5):
        await house.lead(token="maple", listing_source="june_homes")
    waiting = await house.settled()
    assert {(d["state"], d["attempts"]) for d in waiting} == {("pending", 0)}
    assert {d["reason"] for d in waiting} == {
        "no destination: LEADS_SMTP_URL is not set",
        "no destination: LEADS_JUNE_HOMES_URL is not set",
    }
    await house.restart()
    assert len(await house.settled(state="delivered")) == 10
    assert (len(house.mail.mails), len(house.partner.calls)) == (5, 5)


async def test_a_destination_that_is_down_is_probed_by_one_delivery_at_a_time(
    house: House, clock: SteppedClock
) -> None:
    await house.mail.stop()
    for _ in range(30):
        await house.lead(token="maple")
    await house.settled()
    for probes in range(1, 12):
        attempts = sum(d["attempts"] for d in await house.settled())
        clock.step(361)  # beyond the longest hold, jitter and all
        await house.settled()
        assert sum(d["attempts"] for d in await house.deliveries()) == attempts + 1, probes
    assert {d["state"] for d in await house.deliveries()} == {"pending"}


async def test_a_destination_that_is_back_gets_all_that_waited(
    open_house: OpenHouse, clock: SteppedClock
) -> None:
    house = await open_house()
    await house.building()
    house.mail.replies = ["421 shutting down"] * 4
    for _ in range(30):
        await house.lead(token="maple")
    await house.settled()
    assert len(house.mail.mails) < 30
    for _ in range(20):
        clock.step(361)
        await house.settled()
    assert len(await house.deliveries(state="delivered")) == 30
    assert (await house.destination("email"))["waits_because"] is None


async def test_a_paused_destination_sends_nothing_until_it_is_resumed(house: House) -> None:
    await house.change(lambda: destination.pause("email"))
    await house.lead(token="maple", listing_source="june_homes")
    await house.settled()
    assert (len(house.mail.mails), len(house.partner.calls)) == (0, 1)
    assert (await house.destination("email"))["waits_because"] == "paused by the operator"
    await house.restart()
    await house.settled()
    assert house.mail.mails == []
    await house.change(lambda: destination.resume("email"))
    await house.settled()
    assert len(house.mail.mails) == 1


async def test_a_stop_lets_what_is_on_its_way_arrive(house: House) -> None:
    house.mail.gate.clear()
    await house.lead(token="maple")
    await until(lambda: house.server.dispatcher._lanes[0]._on_their_way)
    stopping = asyncio.create_task(house.server.stop())
    await asyncio.sleep(0.05)
    house.mail.gate.set()
    await stopping
    await house.start()
    assert [(d["state"], d["attempts"]) for d in await house.settled()] == [("delivered", 1)]
    assert len(house.mail.mails) == 1


async def test_what_a_crash_left_in_sending_is_sent_at_the_next_start(house: House) -> None:
    await house.lead(token="maple")
    await house.settled()

    def as_a_crash_leaves_it() -> None:
        outbox.Delivery.update(state="sending", attempts=2, due_at=house.clock.now()).execute()
        outbox.DeliveryAttempt.insert(delivery=1, number=2, started_at=house.clock.now()).execute()

    await house.change(as_a_crash_leaves_it)
    await house.restart()
    assert [(d["state"], d["attempts"]) for d in await house.settled()] == [("delivered", 3)]
    outcomes = [attempt["outcome"] for attempt in (await house.stored(1))["attempts"]]
    assert outcomes == ["delivered", outbox.CUT_OFF, "delivered"]


async def test_an_erased_customers_mail_does_not_leave(house: House) -> None:
    await house.change(lambda: destination.pause("email"))
    await house.lead(token="maple")
    await house.change(lambda: erase_customer(find_customer(1), house.clock.now()))
    await house.change(lambda: destination.resume("email"))
    assert [(d["state"], d["reason"]) for d in await house.settled()] == [("skipped", outbox.ERASED)]
    with pytest.raises(Refused, match="erased"):
        await house.change(lambda: outbox_operator.retry_deliveries([1], house.clock.now()))
    assert house.mail.mails == []


async def test_the_attempts_of_a_lead_can_be_read_back(house: House, clock: SteppedClock) -> None:
    house.mail.replies = ["451 later"]
    await house.lead(token="maple")
    await house.settled()
    clock.step(20)
    await house.settled()
    first, second = (await house.stored(1))["attempts"]
    assert (first["number"], second["number"]) == (1, 2)
    assert "451 later" in first["outcome"]
    assert second["outcome"] == "delivered"


async def test_what_is_said_of_a_renter_erased_meanwhile_is_not_kept(house: House) -> None:
    house.mail.gate.clear()
    house.mail.replies = ["451 Jane who?"]
    await house.lead(token="maple")
    await until(lambda: house.server.dispatcher._lanes[0]._on_their_way)
    while (await house.deliveries())[0]["state"] != "sending":
        await asyncio.sleep(0.005)
    await house.change(lambda: erase_customer(find_customer(1), house.clock.now()))
    house.mail.gate.set()
    await until(lambda: not house.server.dispatcher._lanes[0]._on_their_way)
    assert [(d["state"], d["reason"]) for d in await house.deliveries()] == [("skipped", outbox.ERASED)]
    assert [a["outcome"] for a in (await house.stored(1))["attempts"]] == [outbox.ERASED]


async def test_nor_is_the_reason_of_a_hold_that_may_quote_them(house: House) -> None:
    house.mail.replies = ["421 Jane who?"]
    await house.lead(token="maple")
    await house.settled()
    assert "Jane who?" in (await house.destination("email"))["waits_because"]
    await house.change(lambda: erase_customer(find_customer(1), house.clock.now()))
    assert (await house.destination("email"))["waits_because"].endswith(outbox.ERASED)


async def test_a_watchdog_that_stumbles_goes_on(
    house: House, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOOK_EVERY_SECONDS", 0.001)
    looks = []

    def wake() -> None:
        looks.append(1)
        raise OverflowError

    watching = asyncio.create_task(watchdog.watch_the_clock(clock, house.server.writer, wake, wake))
    await until(lambda: len(looks) > 3)
    watching.cancel()


async def test_the_server_has_a_watchdog_that_wakes_the_outbox_without_the_scheduler(
    open_house: OpenHouse, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOOK_EVERY_SECONDS", 0.01)
    house = await open_house()
    await house.building()
    house.server._scheduler.pause()
    house.mail.replies = ["451 later"]
    await house.lead(token="maple")
    while (await house.deliveries())[0]["attempts"] == 0 or (await house.deliveries())[0][
        "state"
    ] == "sending":
        await asyncio.sleep(0.005)
    clock.step(20)
    while not house.mail.mails:
        await asyncio.sleep(0.005)


async def test_an_answer_that_had_left_before_does_not_cut_a_hold_short(
    house: House, clock: SteppedClock
) -> None:
    house.mail.gate.clear()
    for _ in range(2):
        await house.lead(token="maple")
    await until(lambda: len(house.server.dispatcher._lanes[0]._on_their_way) == 2)
    house.mail.replies = ["421 too much"]
    house.mail.gate.set()
    rows = await house.settled()
    assert sorted(row["state"] for row in rows) == ["delivered", "pending"]
    assert "421 too much" in (await house.destination("email"))["waits_because"]


async def test_one_mail_that_is_always_answered_421_does_not_hold_the_others_for_good(
    house: House, clock: SteppedClock
) -> None:
    await house.building(token="oak", agent_email="bad@oak.test")
    house.mail.refused = {"bad@oak.test": "421 go away"}
    await house.lead(token="oak")
    while (await house.settled())[0]["state"] == "pending":
        clock.step(900)
        good = await house.lead(token="maple")
        clock.step(900)
        await house.settled()
        clock.step(900)
        await house.settled()
        assert (await house.stored(good))["deliveries"][0]["state"] == "delivered"
    assert (await house.deliveries())[0]["state"] == "failed"


async def test_a_clock_set_back_an_hour_holds_nothing_up(house: House, clock: SteppedClock) -> None:
    dog = Watchdog(clock, house.server.writer, house.server.dispatcher.wake, house.server._tick_on)
    house.mail.replies = ["451 later", "421 closing"]
    await house.lead(token="maple")
    await house.lead(token="maple", listing_source="june_homes")
    await house.settled()
    clock.set_time_of_day(-3_600)
    await dog.look()
    clock.step(20)  # what they would have waited without it
    await dog.look()
    assert {d["state"] for d in await house.settled()} == {"delivered"}
    assert len(house.mail.mails) == 2


async def test_a_clock_set_on_an_hour_is_only_impatient(house: House, clock: SteppedClock) -> None:
    dog = Watchdog(clock, house.server.writer, house.server.dispatcher.wake, house.server._tick_on)
    house.mail.replies = ["451 later"]
    await house.lead(token="maple")
    await house.settled()
    clock.set_time_of_day(3_600)
    await dog.look()
    assert {d["state"] for d in await house.settled()} == {"delivered"}


@pytest.mark.parametrize("ahead", [3_600, 10 * 365 * 86_400])
async def test_what_a_clock_that_was_ahead_put_off_leaves_at_the_next_start(
    house: House, clock: SteppedClock, ahead: int
) -> None:
    clock.set_time_of_day(ahead)
    house.mail.replies = ["451 later"]
    await house.lead(token="maple")
    await house.settled()
    clock.set_time_of_day(-ahead)
    await house.restart()
    assert [d["state"] for d in await house.settled()] == ["delivered"]


async def test_a_settling_that_fails_is_made_again_until_it_is_done(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = outbox.settle, [ValueError("odd"), StorageError("disk I/O error")]

    def settle(outcomes: Sequence[outbox.Outcome]) -> list[str]:
        if failures:
            raise failures.pop()
        return real(outcomes)

    monkeypatch.setattr(dispatcher, "settle", settle)
    monkeypatch.setattr(dispatcher, "SETTLE_AGAIN_SECONDS", 0.01)
    await house.lead(token="maple")
    assert [(d["state"], d["attempts"]) for d in await house.settled()] == [("delivered", 1)]
    assert len(house.mail.mails) == 1


async def test_a_lead_that_cannot_be_read_is_given_up_and_keeps_no_other_back(house: House) -> None:
    await house.change(lambda: pause("email"))
    bad, good = [await house.lead(token="maple", utm_data="utm_source=x") for _ in range(2)]
    await house.change(lambda: database.execute_sql("UPDATE lead SET utm_data = '{' WHERE id = ?", (bad,)))
    await house.change(lambda: resume("email"))
    states = {d["lead_id"]: (d["state"], d["reason"]) for d in await house.settled()}
    assert states == {bad: ("failed", "the lead can't be read"), good: ("delivered", None)}


async def test_a_claim_that_the_disk_fails_is_made_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fail(lead_ids: object) -> None:
        asked.append(lead_ids)
        raise apsw.IOError("disk I/O error")

    await house.change(lambda: pause("email"))
    await house.lead(token="maple")
    with monkeypatch.context() as broken:
        broken.setattr("models.lead_record._load", fail)
        await house.change(lambda: resume("email"))
        await until(lambda: asked)
    assert [(d["state"], d["attempts"]) for d in await house.settled()] == [("delivered", 1)]
