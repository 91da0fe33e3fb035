"""Mail through Postfix and Exim as Debian has them: what arrives, and what each refusal means."""

import asyncio
import email
import email.policy
import json
import re
import smtplib
from email.message import EmailMessage
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from conftest import ServerHarness, StartHarness, SteppedClock, until
from real_mail_servers import PASSWORD, RATE_SECONDS, Postfix, RealMailServer

from models.outbox.delivery import DeliveryAttempt

AGENT = "agent@oak.test"


async def start(start_harness: StartHarness, smtp_url: str, agent: str = AGENT) -> ServerHarness:
    """Start a server that mails by this server, with buildings of the tokens 'oak' and 'other'."""
    harness = await start_harness(smtp_url=smtp_url, trusted_proxies="127.0.0.1")
    await harness.building(token="oak", agent_email=agent)
    await harness.building(token="other", agent_email="agent0@oak.test")
    return harness


async def send(harness: ServerHarness, **fields: Any) -> dict[str, Any]:
    """Send one lead to 'oak', and return its delivery after the attempt."""
    lead_id = await harness.lead(token="oak", **fields)
    [delivery] = await harness.settled(lead_id=lead_id)
    return delivery


async def send_other(harness: ServerHarness, clock: SteppedClock) -> None:
    """Send a lead of another source to 'other'; its mail must leave within a minute of the clock."""
    other = {"token": "other", "tour_request": {"requestor_email": "other@renter.test"}}
    response = await harness.post(other, X_Forwarded_For="192.0.2.7")
    assert response.code == 201
    await step_until(harness, clock, 60, "delivered", lead_id=json.loads(response.body)["id"])


async def step_until(
    harness: ServerHarness, clock: SteppedClock, seconds: int, state: str, **only: Any
) -> dict[str, Any]:
    """Step the clock, so many seconds at most, until the delivery is in this state; return it."""
    for _ in range(12):
        [delivery] = await harness.settled(**only)
        if delivery["state"] == state:
            return delivery
        clock.step(seconds / 12)
    raise AssertionError(delivery)


async def attempts(harness: ServerHarness) -> list[dict[str, Any]]:
    """Return the attempts at all deliveries, as they are stored."""

    def read() -> list[dict[str, Any]]:
        return [dict(row) for row in DeliveryAttempt.select().dicts().execute()]

    return await harness.server.storage.read(read)


async def arrived(server: RealMailServer, count: int, address: str = AGENT) -> list[EmailMessage]:
    """Wait until so many mails have arrived; return them, parsed."""
    mails = await until(lambda: len(found := server.mails(address)) >= count and found)
    messages = [email.message_from_bytes(mail, policy=email.policy.default) for mail in mails]
    assert len(messages) == count
    return [message for message in messages if isinstance(message, EmailMessage)]


async def deliver_all(harness: ServerHarness, clock: SteppedClock, seconds: float = 0) -> None:
    """Step the clock until each delivery is delivered. seconds: of real time before each step."""
    while any(delivery["state"] != "delivered" for delivery in await harness.settled()):
        await asyncio.sleep(seconds)
        clock.step(3600)


async def test_C24b_attempt_keeps_recipient_and_queue_id_of_postfix(
    start_harness: StartHarness, postfix: Postfix
) -> None:
    harness = await start(start_harness, postfix.url())
    delivery = await send(harness, requestor_name="Jane Doe")
    assert (delivery["state"], delivery["attempts"]) == ("delivered", 1)
    [attempt] = await attempts(harness)
    assert attempt["recipient"] == AGENT
    queued = re.fullmatch(r"250 2\.0\.0 Ok: queued as (\w+)", attempt["answer"])
    assert queued
    [mail] = await arrived(postfix, 1)
    assert f"with ESMTP id {queued[1]}" in mail["Received"]
    assert (mail["Return-Path"], mail["To"]) == ("<leads@office.test>", AGENT)
    await until(lambda: f"{queued[1]}: to=<{AGENT}>" in postfix.log)


async def test_C24b_attempt_keeps_message_id_of_exim(
    start_harness: StartHarness, exim: RealMailServer
) -> None:
    harness = await start(start_harness, exim.url())
    await send(harness)
    [attempt] = await attempts(harness)
    accepted = re.fullmatch(r"250 OK id=(\S+)", attempt["answer"])
    [mail] = await arrived(exim, 1)
    assert accepted and f"id {accepted[1]}" in mail["Received"]


async def test_C24a_unknown_recipient_is_given_up_at_once(
    start_harness: StartHarness, postfix: Postfix
) -> None:
    harness = await start(start_harness, postfix.url(), agent="gone@oak.test")
    delivery = await send(harness)
    assert (delivery["state"], delivery["attempts"]) == ("failed", 1)
    assert "550 5.1.1" in delivery["reason"] and "User unknown" in delivery["reason"]


@pytest.mark.parametrize("service", ["plain", "debian", "login"])
async def test_C24a_denied_relay_is_retried_and_says_what_to_do(
    start_harness: StartHarness, postfix: Postfix, service: str
) -> None:
    harness = await start(start_harness, postfix.url(service), agent="agent@elsewhere.test")
    delivery = await send(harness)
    assert delivery["state"] == "pending"
    said, _, hint = delivery["reason"].partition("denied")
    assert re.search(r"(554 5|454 4)\.7\.1 ", said)
    assert service == "debian" or hint.startswith("; ")


async def test_C24a_other_leads_arrive_although_a_relay_is_denied(
    start_harness: StartHarness, postfix: Postfix, clock: SteppedClock
) -> None:
    harness = await start(start_harness, postfix.url(), agent="agent@elsewhere.test")
    refused = await send(harness)
    await send_other(harness, clock)
    await arrived(postfix, 1, "agent0@oak.test")
    for _ in range(3):
        clock.step(4000)
        [after] = await harness.settled(id=refused["id"])
        assert after["state"] == "pending"


async def test_C24a_rejected_helo_is_retried(start_harness: StartHarness, postfix: Postfix) -> None:
    harness = await start(start_harness, postfix.url("strict_helo", "helo=localhost"))
    delivery = await send(harness)
    assert delivery["state"] == "pending"
    assert "504 5.5.2 <localhost>: Helo command rejected" in delivery["reason"]


async def test_name_in_ehlo_is_accepted_by_a_strict_postfix(
    start_harness: StartHarness, postfix: Postfix
) -> None:
    harness = await start(start_harness, postfix.url("strict_helo"))
    assert (await send(harness))["state"] == "delivered"
    await arrived(postfix, 1)


@pytest.mark.parametrize(
    ("service", "login", "words"),
    [
        ("denied_sender", "", "554 5.7.1 <leads@office.test>: Sender address rejected: Access denied"),
        ("own_sender", "", "553 5.7.1 <leads@office.test>: Sender address rejected: not logged in"),
        (
            "own_sender",
            f"leads:{quote(PASSWORD)}",
            "553 5.7.1 <leads@office.test>: Sender address rejected: not owned by user leads",
        ),
    ],
)
async def test_C24a_refused_sender_is_retried(
    start_harness: StartHarness, postfix: Postfix, service: str, login: str, words: str
) -> None:
    harness = await start(start_harness, postfix.url(service, login=login))
    delivery = await send(harness)
    assert delivery["state"] == "pending" and words in delivery["reason"]


async def test_login_allows_mail_by_postfix(start_harness: StartHarness, postfix: Postfix) -> None:
    harness = await start(start_harness, postfix.url("login", login=f"leads:{quote(PASSWORD)}"))
    assert (await send(harness))["state"] == "delivered"
    await arrived(postfix, 1)


async def test_wrong_password_at_postfix_holds_the_mail(
    start_harness: StartHarness, postfix: Postfix
) -> None:
    harness = await start(start_harness, postfix.url("login", login="leads:wrong"))
    delivery = await send(harness)
    assert delivery["state"] == "pending"
    assert "535 5.7.8" in delivery["reason"] and "LEADS_SMTP_URL" in delivery["reason"]


async def test_C24a_mail_over_the_servers_limit_is_given_up(
    start_harness: StartHarness, postfix: Postfix
) -> None:
    harness = await start(start_harness, postfix.url("small"))
    delivery = await send(harness, message="x" * 10_000)
    assert delivery["state"] == "failed" and "552 5.3.4" in delivery["reason"]
    await send(harness)
    await arrived(postfix, 1)


@pytest.mark.parametrize("field", ["requestor_name", "message"])
async def test_C24a_rejected_content_is_retried_and_other_mail_flows(
    start_harness: StartHarness, postfix: Postfix, clock: SteppedClock, field: str
) -> None:
    harness = await start(start_harness, postfix.url("content"))
    refused = await send(harness, **{field: "Refused" if field == "requestor_name" else "refused words"})
    assert refused["state"] == "pending" and re.search(r"550 5\.7\.1 the \w+ .* spam", refused["reason"])
    await send_other(harness, clock)
    await arrived(postfix, 1, "agent0@oak.test")


@pytest.mark.parametrize(
    ("state", "reply"),
    [
        ("RCPT", "550 5.4.5 Daily user sending limit exceeded"),
        ("END-OF-MESSAGE", "550 5.4.5 Daily user sending limit exceeded"),
        ("RCPT", "550 5.7.60 SMTP; Client does not have permissions to send as this sender"),
        ("END-OF-MESSAGE", "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException"),
        ("RCPT", "554 5.7.1 Service unavailable; Client host blocked"),
        ("END-OF-MESSAGE", "550 5.7.26 This mail is unauthenticated"),
        ("RCPT", "552 5.2.2 Mailbox full"),
        ("END-OF-MESSAGE", "451 4.3.0 Try again later"),
    ],
)
async def test_C24a_quota_and_policy_are_retried_until_they_end(
    start_harness: StartHarness, postfix: Postfix, clock: SteppedClock, state: str, reply: str
) -> None:
    postfix.answer = lambda asked: reply if asked["protocol_state"] == state else "DUNNO"
    harness = await start(start_harness, postfix.url("asking"))
    delivery = await send(harness)
    assert delivery["state"] == "pending"
    code, enhanced, words = reply.split(" ", 2)
    assert f"{code} {enhanced}" in delivery["reason"] and words[:20] in delivery["reason"]
    postfix.forget()
    await deliver_all(harness, clock)
    await arrived(postfix, 1)


@pytest.mark.parametrize("reply", ["550 5.1.6 The mailbox has moved", "550 5.2.1 The mailbox is disabled"])
async def test_C24a_refused_recipient_is_given_up_and_others_are_not(
    start_harness: StartHarness, postfix: Postfix, clock: SteppedClock, reply: str
) -> None:
    postfix.answer = lambda asked: reply if asked["recipient"] == AGENT else "DUNNO"
    harness = await start(start_harness, postfix.url("asking"))
    delivery = await send(harness)
    assert delivery["state"] == "failed" and reply[:10] in delivery["reason"]
    await send_other(harness, clock)
    await arrived(postfix, 1, "agent0@oak.test")


async def test_greylisted_mail_arrives_at_the_next_attempt(
    start_harness: StartHarness, postfix: Postfix, clock: SteppedClock
) -> None:
    seen: set[str] = set()

    def greylist(asked: Any) -> str:
        known = asked["recipient"] in seen or asked["protocol_state"] != "RCPT"
        seen.add(asked["recipient"])
        return "DUNNO" if known else "DEFER_IF_PERMIT Greylisted"

    postfix.answer = greylist
    harness = await start(start_harness, postfix.url("asking"))
    delivery = await send(harness)
    assert delivery["state"] == "pending" and "450 4.7.1" in delivery["reason"]
    clock.step(60)
    [delivery] = await harness.settled()
    assert (delivery["state"], delivery["attempts"]) == ("delivered", 2)
    await arrived(postfix, 1)


async def test_self_signed_certificate_on_loopback_encrypts(
    start_harness: StartHarness, postfix: Postfix
) -> None:
    harness = await start(start_harness, postfix.url("tls"))
    assert (await send(harness))["state"] == "delivered"
    [mail] = await arrived(postfix, 1)
    assert "with ESMTPS id" in mail["Received"]


@pytest.mark.parametrize(
    ("service", "seconds"), [("slow", RATE_SECONDS), ("one_connection", 0)], ids=["mails", "connections"]
)
async def test_every_mail_arrives_once_although_postfix_limits_them(
    start_harness: StartHarness, postfix: Postfix, clock: SteppedClock, service: str, seconds: float
) -> None:
    harness = await start(start_harness, postfix.url(service))
    renters = {f"renter{number}@renter.test" for number in range(20)}
    await asyncio.gather(*(harness.lead(token="oak", requestor_email=renter) for renter in renters))
    await deliver_all(harness, clock, seconds)
    mails = await arrived(postfix, 20)
    assert {mail["Reply-To"] for mail in mails} == renters
    assert {"slow": "too much mail", "one_connection": "too many connections"}[service] in str(
        [attempt["outcome"] for attempt in await attempts(harness)]
    )


async def test_address_that_needs_smtputf8_gets_its_mail(
    start_harness: StartHarness, postfix: Postfix
) -> None:
    address = urlsplit(postfix.url())
    with smtplib.SMTP(str(address.hostname), address.port or 0) as client:
        client.ehlo()
        if not client.has_extn("smtputf8"):
            pytest.skip("NOT RUN: this Postfix was built without SMTPUTF8")
    harness = await start(start_harness, postfix.url(), agent="büro@oak.test")
    assert (await send(harness))["state"] == "delivered"
    [mail] = await arrived(postfix, 1, "büro@oak.test")
    assert "with UTF8SMTP id" in mail["Received"]


@pytest.mark.parametrize(
    "message",
    [
        "Is it free? 🏠 " * 700,
        "\n".join([".", "..", "From me", "x" * 3000, " ", "é " * 1000, "=20"]),
        "." * 10_000,
    ],
    ids=["emoji", "lines", "dots"],
)
async def test_mail_reaches_the_mailbox_byte_for_byte(
    start_harness: StartHarness, postfix: Postfix, clock: SteppedClock, message: str
) -> None:
    harness = await start(start_harness, "")
    await harness.restart()
    harness.mail.deaths = 1  # keeps the mail, and the server does not learn of it
    delivery = await send(harness, message=message, slot="2026-12-01T10:00:00Z")
    assert delivery["state"] == "pending"
    await harness.restart(smtp_url=postfix.url())
    await deliver_all(harness, clock)
    [mail] = await arrived(postfix, 1)
    assert "application/ics" in [part.get_content_type() for part in mail.walk()]
    [sent], [stored] = harness.mail.raw, postfix.mails(AGENT)
    added, _, rest = stored.partition(b"From: ")
    assert b"From: " + rest == sent.replace(b"\r\n", b"\n")
    names = [line.partition(b":")[0] for line in added.splitlines() if not line.startswith(b"\t")]
    assert names == [b"Return-Path", b"X-Original-To", b"Delivered-To", b"Received"]


async def test_burst_of_100_leads_arrives_once_each(start_harness: StartHarness, postfix: Postfix) -> None:
    harness = await start(start_harness, postfix.url())
    renters = [[f"renter{building}.{number}@renter.test" for number in range(20)] for building in range(5)]
    for number in range(5):
        await harness.building(token=f"oak{number}", agent_email=f"agent{number}@oak.test")
    await asyncio.gather(
        *(
            harness.lead(token=f"oak{number}", requestor_email=renter)
            for number, some in enumerate(renters)
            for renter in some
        )
    )
    assert {delivery["attempts"] for delivery in await harness.settled(state="delivered")} == {1}
    for number, some in enumerate(renters):
        mails = await arrived(postfix, 20, f"agent{number}@oak.test")
        assert sorted(mail["Reply-To"] for mail in mails) == sorted(some)


async def test_C24a_bare_550_is_given_up_once_another_is_accepted(
    start_harness: StartHarness, exim: RealMailServer, clock: SteppedClock
) -> None:
    harness = await start(start_harness, exim.url(), agent="gone@oak.test")
    delivery = await send(harness)
    assert delivery["state"] == "pending" and "550 Unrouteable address" in delivery["reason"]
    await send_other(harness, clock)
    await arrived(exim, 1, "agent0@oak.test")
    delivery = await step_until(harness, clock, 3600, "failed", id=delivery["id"])
    assert "550 Unrouteable address" in delivery["reason"]


async def test_C24a_relay_denied_by_exim_is_retried(
    start_harness: StartHarness, exim: RealMailServer, clock: SteppedClock
) -> None:
    harness = await start(start_harness, exim.url(), agent="agent@elsewhere.test")
    for _ in range(3):
        await send(harness)
        clock.step(4000)
    deliveries = await harness.settled()
    assert {delivery["state"] for delivery in deliveries} == {"pending"}
    assert "550 relay not permitted" in deliveries[0]["reason"]


async def test_C24a_content_refused_by_exim_is_retried_and_other_mail_flows(
    start_harness: StartHarness, exim: RealMailServer, clock: SteppedClock
) -> None:
    harness = await start(start_harness, exim.url())
    delivery = await send(harness, requestor_name="Refused")
    assert delivery["state"] == "pending" and "550 Administrative prohibition" in delivery["reason"]
    await send_other(harness, clock)
    await arrived(exim, 1, "agent0@oak.test")
