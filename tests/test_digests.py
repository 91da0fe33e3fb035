"""Digests: mails above a rate leave together, in full, and none is lost (C24c)."""

import asyncio
from datetime import timedelta
from email.message import EmailMessage

import pytest
from command_line import ACTOR
from conftest import ServerHarness, StartHarness, SteppedClock
from mail_server import MailServer

from models.building_actions import update_building
from models.lead_actions import assign_lead
from models.outbox import actions, digests
from models.outbox.destination import Destination
from models.outbox.digests import MailRates

FLOOD, OTHER = "198.51.100.7", "203.0.113.9"
FIVE_MINUTES = 301


async def limited(start_harness: StartHarness, **options: str) -> ServerHarness:
    harness = await start_harness(
        **{
            "trusted_proxies": "127.0.0.1",
            "rate_limit": "100000/1",
            "mails_per_source": "30",
            "mails_per_address": "60",
            **options,
        }
    )
    await harness.building()
    return harness


async def flood(
    harness: ServerHarness, count: int, source: str = FLOOD, token: str = "maple", **more: str
) -> None:
    """POST leads, each with a name of its own."""
    for number in range(count):
        fields = {
            "requestor_email": "jane@renter.test",
            "requestor_name": f"Renter-{token}-{source}-{number}.",
            **more,
        }
        response = await harness.post({"token": token, "tour_request": fields}, X_Forwarded_For=source)
        assert response.code == 201


def text(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    content: str = body.get_content()
    return content


def names(mail: EmailMessage) -> set[str]:
    """Return the renters that a mail names."""
    return {word for word in text(mail).split() if word.startswith("Renter-")}


def sizes(mail: MailServer) -> list[int]:
    """Return how many leads each mail has, in the order in which they came."""
    return [len(names(m)) for m in mail.mails]


async def test_C24c_leads_above_the_rate_of_a_source_leave_in_digests(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await limited(start_harness)
    await flood(harness, 145, slot="2026-12-01T10:00")
    await harness.settled()
    assert sizes(harness.mail) == [1] * 30
    clock.step(FIVE_MINUTES)
    await harness.settled()
    assert sorted(sizes(harness.mail)[30:]) == [15, 50, 50]
    named = [name for mail in harness.mail.mails for name in names(mail)]
    assert len(named) == len(set(named)) == 145
    assert {d["state"] for d in await harness.deliveries()} == {"delivered"}
    calendars = [sum(p.get_filename("").endswith(".ics") for p in m.walk()) for m in harness.mail.mails]
    assert sum(calendars) == 145
    assert len({m["Message-ID"] for m in harness.mail.mails}) == 33


async def test_C24c_other_sources_and_buildings_are_not_delayed(start_harness: StartHarness) -> None:
    harness = await limited(start_harness)
    await harness.building(token="oak", agent_email="agent@oak.test")
    await flood(harness, 40)
    await flood(harness, 3, OTHER)
    await flood(harness, 3, token="oak")
    await harness.settled()
    assert sizes(harness.mail) == [1] * 36


async def test_C24c_mails_above_the_rate_of_an_address_leave_in_a_digest(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await limited(start_harness)
    await harness.building(token="oak", name="The Oak", agent_email="AGENT@maple.test")
    for number in range(36):
        await flood(harness, 1, f"203.0.113.{number}")
        await flood(harness, 1, f"203.0.113.{number}", "oak")
    await harness.settled()
    assert sizes(harness.mail) == [1] * 60
    clock.step(FIVE_MINUTES)
    await harness.settled()
    assert sizes(harness.mail) == [1] * 60 + [12]


async def test_C24c_rates_are_of_the_last_hour(start_harness: StartHarness, clock: SteppedClock) -> None:
    harness = await limited(start_harness)
    await flood(harness, 30)
    clock.step(3_599)
    await flood(harness, 1)
    await harness.settled()
    assert len(harness.mail.mails) == 30
    clock.step(1)
    await flood(harness, 1, requestor_phone="+1 212 555 0100")
    await harness.settled()
    assert len(harness.mail.mails) >= 31


@pytest.mark.parametrize("options", [{"mails_per_source": "0", "mails_per_address": "0"}])
async def test_C24c_zero_is_no_limit(start_harness: StartHarness, options: dict[str, str]) -> None:
    harness = await limited(start_harness, **options)
    await flood(harness, 80)
    await harness.settled()
    assert sizes(harness.mail) == [1] * 80


async def test_C24c_source_with_its_own_rate_limit_has_no_limit(start_harness: StartHarness) -> None:
    harness = await limited(start_harness, rate_limit_exceptions=f"{FLOOD}=1000/1", mails_per_address="0")
    await flood(harness, 40)
    await harness.settled()
    assert sizes(harness.mail) == [1] * 40


async def test_C24c_digest_refused_for_good_is_split(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await limited(start_harness, mails_per_source="1")
    harness.mail.poison_text = "Renter-maple-198.51.100.7-9."
    await flood(harness, 21)
    await harness.settled()
    clock.step(FIVE_MINUTES)
    await harness.settled()
    assert {name for m in harness.mail.mails for name in names(m)} == {
        f"Renter-maple-{FLOOD}-{n}." for n in range(21) if n != 9
    }
    assert [d["state"] for d in await harness.deliveries()].count("failed") == 1
    assert max(sizes(harness.mail)) >= 10


async def test_C24c_digest_that_fails_for_now_is_retried_as_one(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await limited(start_harness, mails_per_source="1")
    await flood(harness, 8)
    await harness.settled()
    harness.mail.replies = ["451 later"]
    clock.step(FIVE_MINUTES)
    await harness.settled()
    assert len(harness.mail.mails) == 1
    await flood(harness, 5)
    await harness.settled()
    clock.step(60)
    await harness.settled()
    assert sizes(harness.mail) == [1, 7]


async def test_C24c_digest_is_sent_after_a_restart(start_harness: StartHarness, clock: SteppedClock) -> None:
    harness = await limited(start_harness, mails_per_source="1")
    await flood(harness, 8)
    await harness.settled()
    await harness.restart(mails_per_source="0", mails_per_address="0")
    clock.step(FIVE_MINUTES)
    await harness.settled()
    assert sizes(harness.mail) == [1, 7]


async def test_C24c_skipped_delivery_is_not_in_the_digest(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await limited(start_harness, mails_per_source="1")
    await flood(harness, 4)
    waiting = [d["id"] for d in await harness.settled() if d["state"] == "pending"]
    assert all(d["reason"] == digests.PUT_OFF for d in await harness.deliveries(state="pending"))
    harness.mail.replies = ["451 later"]
    clock.step(FIVE_MINUTES)
    await harness.settled()
    await harness.change(lambda: actions.skip_deliveries(ACTOR, waiting[:1], clock.now()))
    clock.step(60)
    await harness.settled()
    assert sizes(harness.mail) == [1, 2]


def test_rates_of_an_hour_forget_what_is_older(clock: SteppedClock) -> None:
    rates = MailRates(2, 3)
    admitted = [rates.admits("a", 1, "x@y.test", clock.now()) for _ in range(3)]
    admitted += [rates.admits(source, 1, "X@y.test", clock.now()) for source in ("b", "c")]
    assert admitted == [True, True, False, True, False]
    clock.step(3_600)
    assert rates.admits("a", 1, "x@y.test", clock.now())
    assert len(rates._sent) == len(rates._counts) == 2


async def test_C24c_digest_follows_a_changed_agent(start_harness: StartHarness, clock: SteppedClock) -> None:
    harness = await limited(start_harness, mails_per_source="1", mails_per_address="1")
    oak = await harness.building(token="oak", name="The Oak", agent_email="agent@maple.test")
    await flood(harness, 3)
    await flood(harness, 3, token="oak")
    await harness.settled()
    harness.mail.replies = ["451 later"]
    clock.step(FIVE_MINUTES)
    await harness.settled()
    changed = {"agent_email": "new@oak.test"}
    await harness.change(lambda: update_building(ACTOR, oak, changed, clock.now()))
    clock.step(60)
    await harness.settled()
    assert {d["recipient"] for d in await harness.deliveries() if d["lead_id"] > 3} == {"new@oak.test"}
    assert {d["recipient"] for d in await harness.deliveries() if d["lead_id"] <= 3} == {"agent@maple.test"}
    assert sizes(harness.mail) == [1, 2, 3]


async def test_C24c_lead_given_away_leaves_its_digest(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await limited(start_harness, mails_per_source="1", mails_per_address="0")
    oak = await harness.building(token="oak", name="The Oak", agent_email="agent@oak.test")
    await flood(harness, 6)
    await flood(harness, 4, token="oak")
    await harness.settled()
    harness.mail.refused["agent@maple.test"] = "451 later"
    clock.step(FIVE_MINUTES)
    await harness.settled()
    await harness.change(lambda: assign_lead(ACTOR, 2, oak, clock.now()))
    await harness.settled()
    harness.mail.refused.clear()
    for _ in range(3):
        clock.step(FIVE_MINUTES)
        await harness.settled()
    for [recipient], mail in zip(harness.mail.recipients, harness.mail.mails, strict=True):
        assert sum("maple" in name for name in names(mail)) <= 1 or recipient == "agent@maple.test"
        assert not any("oak" in name for name in names(mail)) or recipient == "agent@oak.test"
    assert {name for mail in harness.mail.mails for name in names(mail)} == {
        f"Renter-{token}-{FLOOD}-{n}." for token, count in (("maple", 6), ("oak", 4)) for n in range(count)
    }


@pytest.mark.parametrize("reply", ["421 4.7.0 busy", "550 5.4.5 Daily limit", "554 relay denied"])
async def test_C24c_digest_held_by_a_quota_stays_one(
    start_harness: StartHarness, clock: SteppedClock, reply: str
) -> None:
    harness = await limited(start_harness, mails_per_source="1", mails_per_address="0")
    await harness.building(token="oak", name="The Oak", agent_email="agent@oak.test")
    await flood(harness, 33)
    await harness.settled()
    harness.mail.refused["agent@maple.test"] = reply
    for number in range(8):
        clock.step(400)
        await harness.settled()
        await flood(harness, 1, f"192.0.2.{number}", token="oak")
        await harness.settled()
    harness.mail.refused.clear()
    for _ in range(4):
        clock.step(30_000)
        await harness.settled()
    assert sorted(sizes(harness.mail))[-1] == 32
    assert {d["state"] for d in await harness.deliveries()} == {"delivered"}


async def test_C24c_retried_mail_leaves_its_digest_at_once(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await limited(start_harness, mails_per_source="1")
    await flood(harness, 6)
    await harness.settled()
    harness.mail.replies = ["451 later"] * 3
    for seconds in (FIVE_MINUTES, 60, 200):
        clock.step(seconds)
        await harness.settled()
    last = (await harness.deliveries(state="pending"))[-1]["id"]
    await harness.change(lambda: actions.retry_deliveries(ACTOR, [last], clock.now()))
    assert (await harness.settled(id=last))[0]["state"] == "delivered"


async def test_C24c_unknown_recipient_of_a_digest_is_asked_once(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await limited(start_harness, mails_per_source="1")
    await flood(harness, 20)
    await harness.settled()
    harness.mail.unknown = {"agent@maple.test"}
    clock.step(FIVE_MINUTES)
    failed = [d for d in await harness.settled() if d["state"] == "failed"]
    assert [d["attempts"] for d in failed] == [1] * 19


async def test_C24c_mail_above_a_rate_keeps_no_other_source_waiting(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await limited(start_harness, mails_per_source="1", mails_per_address="0")
    await flood(harness, 1)
    await harness.settled()
    await harness.change(lambda: actions.pause(ACTOR, "email", clock.now()))
    await flood(harness, 200)
    await flood(harness, 1, OTHER)
    refuses = {
        "paused": False,
        "refuses": True,
        "failures": 3,
        "hold_until": clock.now() + timedelta(minutes=3),
    }
    await harness.change(lambda: Destination.update(refuses).execute())
    wakes = 0
    while len(harness.mail.mails) == 1:
        harness.server.dispatcher.wake()
        await asyncio.sleep(0.05)
        wakes += 1
    assert wakes < 20


def test_rates_survive_a_clock_that_is_set_back(clock: SteppedClock) -> None:
    rates = MailRates(1, 0)
    rates.admits("a", 1, "x@y.test", clock.now())
    clock.set_time_of_day(-86_400)
    assert rates.admits("a", 1, "x@y.test", clock.now())
