"""Refusals: those of some leads hold up no others, and nothing is given up for the wrong reason (C24a)."""

from datetime import timedelta

import pytest
from conftest import ServerHarness, StartHarness, SteppedClock, until
from mail_server import POISON

from models.outbox.destination import Destination

POISONED, HONEST = "198.51.100.7", "203.0.113.9"


async def proxied(start_harness: StartHarness, **options: str) -> ServerHarness:
    harness = await start_harness(trusted_proxies="127.0.0.1", rate_limit="100000/1", **options)
    await harness.building()
    return harness


async def send(harness: ServerHarness, source: str, count: int = 1, **fields: str) -> None:
    """POST leads from this address."""
    body = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test", **fields}}
    for _ in range(count):
        assert (await harness.post(body, X_Forwarded_For=source)).code == 201


MAIL_REFUSALS = [
    "421 4.3.2 closing",
    "451 4.7.1 try later",
    "452 4.3.1 no space",
    "550 5.7.1 spam",
    "554 rejected",
    "552 5.2.3 too long",
    "535 5.7.8 no",
    "lost",
]


@pytest.mark.parametrize("reply", MAIL_REFUSALS)
@pytest.mark.parametrize("first", ["poisoned", "honest"])
async def test_C24a_poisoned_mails_hold_up_no_other_source(
    start_harness: StartHarness, reply: str, first: str
) -> None:
    harness = await proxied(start_harness)
    harness.mail.poison = reply
    if first == "honest":
        harness.mail.gate.clear()
        await send(harness, HONEST)
    await send(harness, POISONED, 40, requestor_name=POISON)
    harness.mail.gate.set()
    await send(harness, HONEST, 2)
    await send(harness, "2001:db8::1", 2)
    # The clock stands still: no hold of the destination ends.
    expected = 5 if first == "honest" else 4
    await until(lambda: len(harness.mail.mails) == expected)
    assert harness.mail.poisoned >= 1
    assert not await harness.deliveries(kind="email", state="failed")


@pytest.mark.parametrize("status", [302, 401, 403, 404, 410, 429, 503])
async def test_C24a_poisoned_partner_calls_hold_up_no_other_source(
    start_harness: StartHarness, status: int
) -> None:
    harness = await proxied(start_harness)
    harness.partner.refused, harness.partner.refusal = POISON.encode(), (status, {"Retry-After": "3600"})
    await send(harness, POISONED, 40, requestor_name=POISON, listing_source="june_homes")
    await send(harness, HONEST, 3, listing_source="june_homes")

    def honest() -> int:
        return sum(POISON.encode() not in body for _, body in harness.partner.calls)

    await until(lambda: honest() == 3)


@pytest.mark.parametrize("exceptions", ["", f"{POISONED}=1000/1"], ids=["counted", "excepted"])
async def test_C24a_silent_mails_hold_up_no_other_source(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch, exceptions: str
) -> None:
    monkeypatch.setattr("jobs.dispatcher.SLOW_SECONDS", 0.05)
    harness = await proxied(start_harness, rate_limit_exceptions=exceptions)
    harness.mail.poison = "silent"
    await send(harness, POISONED, 20, requestor_name=POISON)
    await until(lambda: harness.mail.poisoned == 4)
    await send(harness, HONEST, 3)
    await until(lambda: len(harness.mail.mails) == 3)
    assert harness.mail.poisoned == 4


async def test_C24a_formerly_refused_mail_leaves_past_poisoned_ones(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await proxied(start_harness)
    harness.mail.poison = "550 5.7.1 no"
    harness.mail.replies = ["550 5.4.5 quota"] * 2
    await send(harness, HONEST)
    await harness.settled()
    await send(harness, POISONED, 30, requestor_name=POISON)
    await harness.settled()
    for _ in range(6):
        clock.step(10)
        await harness.settled()
    assert len(harness.mail.mails) == 1


async def test_C24a_poisoned_mail_is_given_up_once_others_got_through(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await proxied(start_harness)
    harness.mail.poison = "550 5.7.1 spam"
    await send(harness, POISONED, requestor_name=POISON)
    await send(harness, HONEST)
    while (await harness.settled())[0]["state"] == "pending":
        clock.step(7_200)
        await send(harness, HONEST)
    assert len(harness.mail.mails) >= 14


QUOTAS = [
    "550 5.4.5 Daily user sending limit exceeded",
    "550-5.4.5 Daily\r\n550 5.4.5 limit",
    "550 5.7.60 SMTP; Client does not have permissions to SendAs",
    "554 5.7.1 relay access denied",
    "554 relay denied",
    "504 5.5.2 <x>: Helo command rejected",
    "550 5.1.8 sender domain not found",
    "552 quota",
    "530 5.7.0 Authentication required",
]


@pytest.mark.parametrize("reply", QUOTAS)
async def test_C24a_refusal_of_all_mail_holds_it_for_days(
    start_harness: StartHarness, clock: SteppedClock, reply: str
) -> None:
    harness = await proxied(start_harness)
    harness.mail.replies = [reply] * 10_000
    for number in range(5):
        await send(harness, f"203.0.113.{number}")
    for _ in range(20):  # more often than a delivery may fail
        clock.step(8 * 3_600)
        await harness.settled()
    assert {d["state"] for d in await harness.deliveries()} == {"pending"}
    assert str((await harness.destination("email"))["waits_because"]).count("held until")
    harness.mail.replies.clear()
    for _ in range(10):
        clock.step(600)
        await harness.settled()
    assert {d["state"] for d in await harness.deliveries()} == {"delivered"}
    assert len(harness.mail.mails) == 5


async def test_C24a_each_refused_source_probes_once_a_hold(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await proxied(start_harness)
    harness.mail.replies = ["550 5.4.5 limit"] * 10_000
    for number in range(20):
        await send(harness, f"203.0.113.{number}")
        await harness.settled()
    for _ in range(10):
        clock.step(600)
        await harness.settled()
    asked = 10_000 - len(harness.mail.replies)
    assert asked <= 20 + 10 * 4, "a destination that refuses everything is asked too often"


async def test_C24a_refused_connection_ends_the_hold_of_a_refusal(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await proxied(start_harness)
    harness.partner.refused, harness.partner.refusal = POISON.encode(), (429, {"Retry-After": "86400"})
    await send(harness, POISONED, requestor_name=POISON, listing_source="june_homes")
    await harness.settled()
    await harness.partner.stop()
    await send(harness, HONEST, listing_source="june_homes")
    await harness.settled()
    row = await harness.server.storage.read(lambda: Destination.get_by_id("june_homes"))
    assert row.hold_until - clock.now() < timedelta(minutes=1)


async def test_C24a_slow_mail_does_not_keep_others_from_a_refusing_server(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.dispatcher.SLOW_SECONDS", 0.05)
    harness = await proxied(start_harness)
    harness.mail.poison = "silent"
    await send(harness, POISONED, requestor_name=POISON)
    await until(lambda: harness.mail.poisoned == 1)
    harness.mail.poison = "550 5.7.1 spam"
    await send(harness, POISONED, requestor_name=POISON)
    await until(lambda: harness.mail.poisoned == 2)
    await send(harness, HONEST, 3)
    await until(lambda: len(harness.mail.mails) == 3)


async def test_C24a_success_by_a_wrong_clock_gives_up_no_mail(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await proxied(start_harness)
    clock.step(30 * 86_400)
    await send(harness, HONEST)
    await harness.settled()
    await harness.server.stop()
    clock.set_time_of_day(-30 * 86_400)
    await harness.start(trusted_proxies="127.0.0.1", rate_limit="100000/1")
    harness.mail.replies = ["550 5.4.5 Daily user sending limit exceeded"] * 10_000
    await send(harness, POISONED)
    for _ in range(20):
        clock.step(8 * 3_600)
        await harness.settled()
    assert [d["state"] for d in await harness.deliveries()] == ["delivered", "pending"]
