"""`lead send` and `lead correct`: more mails about one lead, and the ledger of who got and sent them."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from command_line import ACTOR, NOW, Commands
from conftest import ServerHarness, SteppedClock

from models.building_actions import remove_building, update_building
from models.customer import flag_spam
from models.erasure import erase_customer
from models.errors import ActionError, Conflict, Invalid, NotFound
from models.lead import Lead
from models.lead_actions import assign_lead, correct_slot, send_lead
from models.outbox.actions import pause, resume, retry_deliveries, skip_deliveries
from models.outbox.delivery import ERASED, Delivery, DeliveryAttempt
from models.outbox.destination import EMAIL

HOUR = "2026-12-01T10:00"


async def send(harness: ServerHarness, lead: int, to: str | None = None) -> Any:
    return await harness.change(lambda: send_lead(ACTOR, lead, to, harness.clock.now()))


async def correct(harness: ServerHarness, lead: int, slot: str | None) -> Any:
    return await harness.change(lambda: correct_slot(ACTOR, lead, slot, harness.clock.now()))


async def refused(doing: Any) -> str:
    with pytest.raises(ActionError) as error:
        await doing
    return str(error.value)


async def test_C24b_a_lead_is_sent_again_by_command(harness: ServerHarness, clock: SteppedClock) -> None:
    lead = await harness.lead(token="maple")
    await harness.settled()
    commands = Commands(harness.data_dir)
    said = (await asyncio.to_thread(commands.run, "lead", "send", lead)).stdout
    assert said == "The mail to agent@maple.test is on its way: delivery 2.\n"
    sent = await asyncio.to_thread(commands.row, "lead", "send", lead, "--to", " Boss@Office.TEST ")
    assert sent == {"id": lead, "delivery_id": 3, "recipient": "Boss@office.test", "waits_because": None}
    clock.set_time_of_day((datetime.now(UTC) - clock.now()).total_seconds() + 60)
    await harness.settled()
    assert harness.mail.recipients[0] == ["agent@maple.test"]
    assert sorted(harness.mail.recipients[1:]) == [["Boss@office.test"], ["agent@maple.test"]]
    assert len({mail["Message-ID"] for mail in harness.mail.mails}) == 3
    listed = await asyncio.to_thread(commands.rows, "outbox", "list", "--lead", lead)
    assert [(row["id"], row["recipient"], row["answer"]) for row in listed] == [
        (3, "Boss@office.test", "250 OK"),
        (2, "agent@maple.test", "250 OK"),
        (1, "agent@maple.test", "250 OK"),
    ]


async def test_C24b_a_second_mail_to_an_address_that_waits_is_refused(harness: ServerHarness) -> None:
    await harness.change(lambda: pause(ACTOR, EMAIL, harness.clock.now()))
    lead = await harness.lead(token="maple")
    waits = "waits already: paused by the operator"
    for address in (None, "agent@maple.test", "AGENT@Maple.Test"):
        said = await refused(send(harness, lead, address))
        assert said.endswith(waits) and said.startswith("delivery 1 to ")
    boss = await send(harness, lead, "boss@office.test")
    assert boss.waits_because == "paused by the operator"
    assert (await refused(send(harness, lead, "boss@OFFICE.test"))).endswith(waits)
    await harness.change(lambda: resume(ACTOR, EMAIL, harness.clock.now()))
    await harness.settled()
    assert sorted(harness.mail.recipients) == [["agent@maple.test"], ["boss@office.test"]]


async def test_C24b_a_backoff_and_a_mail_in_flight_are_named(harness: ServerHarness) -> None:
    harness.mail.replies = ["451 later"]
    lead = await harness.lead(token="maple")
    await harness.settled()
    said = await refused(send(harness, lead))
    assert "451 later" in said and "; its next attempt is at 2026-11-23T15:00:" in said
    harness.mail.gate.clear()
    await harness.change(lambda: retry_deliveries(ACTOR, [1], harness.clock.now()))
    harness.server.dispatcher.wake()
    while (await harness.deliveries())[0]["state"] != "sending":
        await asyncio.sleep(0.005)
    assert await refused(send(harness, lead)) == "delivery 1 to agent@maple.test is being sent already"
    harness.mail.gate.set()
    await harness.settled()


async def test_C24b_a_failed_mail_is_retried_not_sent_beside(harness: ServerHarness) -> None:
    harness.mail.unknown.add("agent@maple.test")
    lead = await harness.lead(token="maple")
    await harness.settled()
    with pytest.raises(Conflict, match="^delivery 1 to agent@maple.test failed: .*550 5.1.1") as error:
        await send(harness, lead)
    assert (error.value.code, error.value.facts) == ("failed", {"delivery": 1})
    await send(harness, lead, "boss@office.test")
    await harness.settled()
    assert harness.mail.recipients == [["boss@office.test"]]


async def test_C24b_send_refuses_what_can_not_leave(harness: ServerHarness) -> None:
    await harness.building(token="mute", agent_email=None)
    mute, unassigned, erased, held = [
        await harness.lead(token=token, requestor_email=f"{n}@renter.test")
        for n, token in enumerate(("mute", "unknown", "maple", "maple"))
    ]
    await harness.settled()
    now = harness.clock.now()
    await harness.change(lambda: erase_customer(ACTOR, 3, now))
    await harness.change(lambda: update_building(ACTOR, 1, {"spam_defence": "hold"}, now))
    await harness.change(lambda: Lead.update(suspected="links").where(Lead.id == held).execute())
    before = await harness.deliveries()
    for lead, to, kind, code in (
        (99, None, NotFound, "unknown_lead"),
        (mute, None, Conflict, "no_agent"),
        (unassigned, None, Conflict, "unassigned"),
        (unassigned, "boss@office.test", Conflict, "unassigned"),
        (erased, "boss@office.test", Conflict, ""),
        (held, None, Conflict, "suspected"),
        (held, "boss@office.test", Conflict, "suspected"),
    ):
        with pytest.raises(kind) as error:
            await send(harness, lead, to)
        assert error.value.code == code
    assert await harness.deliveries() == before
    await send(harness, mute, "boss@office.test")
    await harness.settled()
    assert harness.mail.recipients[-1] == ["boss@office.test"]


@pytest.mark.parametrize(
    "address",
    [
        "",
        " ",
        "boss",
        "boss@",
        "@office.test",
        "a@b.test, c@d.test",
        "a@b.test\nc@d.test",
        "a b@c.test",
        "a@b@c.test",
    ],
)
async def test_C24b_a_bad_address_is_refused(harness: ServerHarness, address: str) -> None:
    lead = await harness.lead(token="maple")
    with pytest.raises(Invalid, match="is not an e-mail address"):
        await send(harness, lead, address)


async def test_C24b_the_mail_of_a_flagged_customer_is_sent_on_request(harness: ServerHarness) -> None:
    await harness.lead(token="maple")
    await harness.change(lambda: flag_spam(ACTOR, 1, True, harness.clock.now()))
    lead = await harness.lead(token="maple")
    await send(harness, lead)
    assert [d["state"] for d in await harness.settled()] == ["delivered", "skipped", "delivered"]


async def test_C24b_a_removed_buildings_lead_is_sent(harness: ServerHarness) -> None:
    lead = await harness.lead(token="maple")
    await harness.settled()
    await harness.change(lambda: remove_building(ACTOR, 1, harness.clock.now()))
    await send(harness, lead)
    await harness.settled()
    assert harness.mail.recipients == [["agent@maple.test"]] * 2


async def test_C24b_a_lead_sent_again_is_not_taken_away(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", agent_email="agent@oak.test")
    lead = await harness.lead(token="maple")
    await harness.settled()
    await harness.change(lambda: pause(ACTOR, EMAIL, harness.clock.now()))
    await harness.change(lambda: assign_lead(ACTOR, lead, oak, harness.clock.now()))
    await send(harness, lead, "Agent@maple.test")
    await harness.change(lambda: resume(ACTOR, EMAIL, harness.clock.now()))
    rows = [(d["content"], d["recipient"], d["state"]) for d in (await harness.settled())[1:]]
    assert rows == [
        ("taken_away", "agent@maple.test", "skipped"),
        ("lead", "agent@oak.test", "delivered"),
        ("lead", "Agent@maple.test", "delivered"),
    ]


async def test_C24b_a_corrected_tour_is_mailed_to_who_has_the_lead(harness: ServerHarness) -> None:
    await harness.change(lambda: update_building(ACTOR, 1, {"time_zone": "America/New_York"}, NOW))
    lead = await harness.lead(token="maple", slot=HOUR)
    await harness.settled()
    await send(harness, lead, "boss@office.test")
    await harness.settled()
    corrected = await correct(harness, lead, "2026-12-02T11:00")
    assert corrected.mailed == ["agent@maple.test", "boss@office.test"]
    assert corrected.slot == datetime(2026, 12, 2, 16, tzinfo=UTC)
    rows = await harness.settled(content="changed_tour")
    assert [(d["recipient"], d["state"]) for d in rows] == [
        ("agent@maple.test", "delivered"),
        ("boss@office.test", "delivered"),
    ]
    assert "11:00 AM EST" in str(harness.mail.mails[-1].get_body(("plain",)))
    stored = await harness.stored(lead)
    assert (stored["slot"], stored["sent"]["slot"]) == ("2026-12-02T16:00:00.000000Z", HOUR)
    assert stored["corrected_slot"] == "2026-12-02T11:00"
    assert (await harness.change(lambda: Lead.get_by_id(lead))).tour_sequence == 1


async def test_C24b_a_waiting_mail_leaves_with_the_corrected_tour(harness: ServerHarness) -> None:
    await harness.change(lambda: pause(ACTOR, EMAIL, harness.clock.now()))
    lead = await harness.lead(token="maple", slot=HOUR)
    assert (await correct(harness, lead, "2026-12-02")).mailed == []
    await harness.change(lambda: resume(ACTOR, EMAIL, harness.clock.now()))
    await harness.settled()
    [mail] = harness.mail.mails
    assert "Wednesday, December 2, 2026" in str(mail.get_body(("plain",)))


REMARKABLE = {
    "past": ("2026-01-02T10:00", ["this time is already past"]),
    "past day": ("2026-01-02", ["this is a day without an hour", "this time is already past"]),
    "repeated": ("2099-11-01T01:30", ["this time comes twice"]),
    "skipped": ("2099-03-08T02:30", ["the clocks skip this time"]),
    "with an offset": ("2099-03-08T02:30-05:00", []),
    "day": ("20991201", ["this is a day without an hour"]),
    "plain": ("2099-12-01T10:00", []),
}


@pytest.mark.parametrize("slot, remarks", REMARKABLE.values(), ids=REMARKABLE)
def test_C10_a_correction_says_what_is_remarkable(commands: Commands, slot: str, remarks: list[str]) -> None:
    commands.leads({})
    commands.run("building", "update", 1, "--time-zone", "America/New_York")
    said = commands.run("lead", "correct", 1, "--slot", slot).stderr.splitlines()
    assert len(said) == len(remarks)
    for line, remark in zip(said, remarks, strict=True):
        assert line.startswith("note: ") and remark in line


def test_C24b_a_correction_names_waiting_mail_only_if_there_is_some(commands: Commands) -> None:
    commands.leads({}, {})
    unsent = "No mail is added: mail that has not left yet leaves with this change."
    assert unsent in commands.run("lead", "correct", 1, "--slot", "2099-12-01T10:00").stdout
    commands.run("outbox", "skip", 2)
    said = commands.run("lead", "correct", 2, "--slot", "2099-12-01T10:00").stdout.splitlines()
    assert said[1:] == ["No mail is added: nobody has the lead."]


async def test_C24b_two_corrections_in_a_pause_bring_one_mail(harness: ServerHarness) -> None:
    lead = await harness.lead(token="maple", slot=HOUR)
    await harness.settled()
    await harness.change(lambda: pause(ACTOR, EMAIL, harness.clock.now()))
    assert (await correct(harness, lead, "2026-12-02T10:00")).mailed == ["agent@maple.test"]
    assert (await correct(harness, lead, None)).mailed == []
    stored = await harness.stored(lead)
    assert (stored["slot"], stored["corrected_slot"], stored["sent"]["slot"]) == (None, "", HOUR)
    await harness.change(lambda: resume(ACTOR, EMAIL, harness.clock.now()))
    await harness.settled()
    assert len(harness.mail.mails) == 2
    assert (await harness.change(lambda: Lead.get_by_id(lead))).tour_sequence == 2


async def test_C24b_a_corrected_slot_moves_with_the_building(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", time_zone="America/New_York")
    leads = [await harness.lead(token="maple", slot=HOUR) for _ in range(2)]
    await correct(harness, leads[0], "2026-12-02T11:00")
    await correct(harness, leads[1], None)
    for lead in leads:
        await harness.change(partial(assign_lead, ACTOR, lead, oak, harness.clock.now()))
    assert [(await harness.stored(lead))["slot"] for lead in leads] == ["2026-12-02T16:00:00.000000Z", None]


@pytest.mark.parametrize(
    "text",
    ["", " ", "tomorrow", "undefined", "NaN", "1796011200000", "1999-01-01", "2026-13-01T10:00", "10:00"],
)
async def test_C10_a_bad_correction_is_refused(harness: ServerHarness, text: str) -> None:
    lead = await harness.lead(token="maple", slot=HOUR)
    with pytest.raises(Invalid, match="is not a date and time"):
        await correct(harness, lead, text)


async def test_C24b_a_correction_that_changes_nothing_is_refused(harness: ServerHarness) -> None:
    lead = await harness.lead(token="maple", slot="2026-12-01")
    assert await refused(correct(harness, lead, "20261201")) == f"lead {lead} has that time already"
    await correct(harness, lead, "2026-12-01T00:00")  # the hour is new
    assert "already" in await refused(correct(harness, lead, "2026-12-01T00:00:00Z"))
    await correct(harness, lead, None)
    assert await refused(correct(harness, lead, None)) == f"lead {lead} has no tour"
    assert await refused(correct(harness, 99, HOUR)) == "there is no lead 99"
    await harness.change(lambda: erase_customer(ACTOR, 1, harness.clock.now()))
    assert ERASED in await refused(correct(harness, lead, HOUR))
    assert (await harness.stored(lead))["corrected_slot"] is None


async def test_C24b_other_mails_are_retried_and_skipped_too(harness: ServerHarness) -> None:
    lead = await harness.lead(token="maple", slot=HOUR)
    await harness.settled()
    harness.mail.replies = ["554 5.6.0 no"]
    await correct(harness, lead, "2026-12-02T10:00")
    [failed] = await harness.settled(content="changed_tour")
    assert failed["state"] in ("failed", "pending")
    now = harness.clock.now()
    await harness.change(lambda: skip_deliveries(ACTOR, [failed["id"]], now))
    await harness.change(lambda: retry_deliveries(ACTOR, [failed["id"]], now))
    assert [d["state"] for d in await harness.settled()] == ["delivered", "delivered"]
    with pytest.raises(Conflict) as error:
        await harness.change(lambda: retry_deliveries(ACTOR, [1], now))
    assert (error.value.code, error.value.facts) == ("delivered", {"lead": lead})


async def test_C24b_an_erasure_skips_all_mails_and_forgets_the_renters_address(
    harness: ServerHarness,
) -> None:
    lead = await harness.lead(token="maple", requestor_email="jane@renter.test", slot=HOUR)
    await send(harness, lead, "JANE@renter.test")
    await harness.settled()
    await harness.change(lambda: pause(ACTOR, EMAIL, harness.clock.now()))
    await correct(harness, lead, "2026-12-02T10:00")
    await harness.change(lambda: erase_customer(ACTOR, 1, harness.clock.now()))
    rows = await harness.deliveries()
    assert [d["state"] for d in rows] == ["delivered", "delivered", "skipped", "skipped"]
    assert "jane" not in str(rows + [await harness.stored(lead)]).lower()


def test_C24b_the_ledger_says_who_got_the_mail_and_who_sent_it(commands: Commands) -> None:
    commands.leads({})
    with commands.database():
        Delivery.update(state="delivered", attempts=1, due_at=None, sent_at=NOW).execute()
        answer = "250 2.0.0 Ok: queued as 4F1\x1b[31m"
        DeliveryAttempt.create(
            delivery=1,
            number=1,
            started_at=NOW,
            ended_at=NOW,
            outcome="delivered",
            recipient="a@b.test",
            answer=answer,
        )
        send_lead(ACTOR, 1, "boss@office.test", NOW + timedelta(hours=1))
        pause(ACTOR, EMAIL, NOW)
        skip_deliveries(ACTOR, [2], NOW + timedelta(hours=2))
    shown = commands.run("lead", "show", 1).stdout
    ledger = shown[shown.index("ledger") :].splitlines()
    assert [" ".join(line.split()).removeprefix("ledger ") for line in ledger] == [
        "2026-11-23 15:00:00Z delivery 1, attempt 1: email to a@b.test: delivered: "
        "250 2.0.0 Ok: queued as 4F1\ufffd[31m",
        "2026-11-23 16:00:00Z lead.send (recipient) by tester, command line",
        "2026-11-23 17:00:00Z delivery.skip 2 by tester, command line",
    ]
    record = commands.row("lead", "show", 1)
    [attempt] = record["attempts"]
    assert (attempt["delivery_id"], attempt["recipient"], attempt["answer"]) == (1, "a@b.test", answer)
    assert [(action["action"], action["delivery_id"]) for action in record["actions"]] == [
        ("lead.send", None),
        ("delivery.skip", 2),
    ]
    table = commands.run("outbox", "list", "--kind", "email").stdout
    assert "queued as 4F1" in table and "boss@office.test" in table
