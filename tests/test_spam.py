"""Spam checks: no lead is refused or lost, and the operator releases or skips its deliveries."""

import asyncio
from typing import Any

import pytest
from command_line import ACTOR, NOW, Commands
from conftest import ServerHarness, SteppedClock, held, queued

from models.building_actions import update_building
from models.intake import SmsConsent
from models.lead import Lead
from models.lead_actions import assign_lead, release_lead
from models.spam import FLOOD_COUNT, HONEYPOT, UNATTENDED, RecentText, SpamSignals

FILLED_HONEYPOT = {"homepage": "https://pills.test"}
QUARANTINED_BY_HONEYPOT = f"suspected of spam: {HONEYPOT}"


async def defend(harness: ServerHarness, how: str) -> None:
    await harness.change(lambda: update_building(ACTOR, 1, {"spam_defence": how}, harness.clock.now()))


async def states(harness: ServerHarness, lead: int) -> dict[str, tuple[str, str | None]]:
    rows = [row for row in await harness.settled() if row["lead_id"] == lead]
    return {row["kind"]: (row["state"], row["reason"]) for row in rows}


async def test_a_filled_honeypot_quarantines_where_the_defence_holds(harness: ServerHarness) -> None:
    await defend(harness, "hold")
    lead = await harness.lead(token="maple", listing_source="june_homes", **FILLED_HONEYPOT)
    stored = await harness.stored(lead)
    assert stored["suspected"] == "the field that nobody sees was filled in"
    assert await states(harness, lead) == {
        "email": ("quarantined", QUARANTINED_BY_HONEYPOT),
        "june_homes": ("quarantined", QUARANTINED_BY_HONEYPOT),
    }
    assert harness.mail.mails == [] and harness.partner.calls == []


@pytest.mark.parametrize("defence", ["off", "mark"])
async def test_a_filled_honeypot_marks_the_mail_otherwise(harness: ServerHarness, defence: str) -> None:
    await defend(harness, defence)
    lead = await harness.lead(token="maple", listing_source="june_homes", **FILLED_HONEYPOT)
    assert (await harness.stored(lead))["suspected"] == HONEYPOT
    assert await states(harness, lead) == {"email": ("delivered", None), "june_homes": ("delivered", None)}
    (mail,) = harness.mail.mails
    assert mail["Subject"].startswith("Looks like spam: New lead: ")
    text = mail.get_body(("plain",))
    assert text and f"Looks like spam: {HONEYPOT}" in text.get_content()
    assert b"suspected" not in harness.partner.calls[0][1]


async def test_a_released_lead_has_all_its_deliveries_sent(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    await defend(harness, "hold")
    lead = await harness.lead(token="maple", listing_source="june_homes", **FILLED_HONEYPOT)
    assert await harness.change(lambda: release_lead(ACTOR, lead, clock.now())) == 2
    harness.server.dispatcher.wake()
    assert await states(harness, lead) == {"email": ("delivered", None), "june_homes": ("delivered", None)}
    assert (await harness.stored(lead))["suspected"] is None
    assert harness.mail.mails[0]["Subject"].startswith("New lead: ")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"form_seconds": "0.4"}, "it was filled in within 0.4 s"),
        ({"message": "https://pills.test/now"}, "its message is links alone"),
        ({"message": " www.pills.test , HTTPS://more.test !"}, "its message is links alone"),
    ],
)
async def test_spam_is_quarantined_where_there_is_a_defence(
    harness: ServerHarness, fields: dict[str, Any], reason: str
) -> None:
    assert (await harness.stored(await harness.lead(token="maple", **fields)))["suspected"] is None
    await defend(harness, "hold")
    lead = await harness.lead(token="maple", **fields)
    assert (await harness.stored(lead))["suspected"] == reason
    assert await states(harness, lead) == {"email": ("quarantined", f"suspected of spam: {reason}")}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"homepage": " "},
        {"homepage": False},
        {"homepage": 0},
        {"homepage": ["x"]},
        {"homepage": {"x": 1}},
        {"form_seconds": ["x"]},
        {"form_seconds": "9" * 2_000},
        {"form_seconds": 60},
        {"message": "https://maple.test/4b还有空房吗？"},
        {"form_seconds": "3"},
        {"form_seconds": "soon"},
        {"form_seconds": "-1"},
        {"form_seconds": "nan"},
        {"message": "Is https://maple.test/4b still free?"},
        {"message": "?"},
    ],
)
async def test_a_plausible_lead_is_not_suspected(harness: ServerHarness, fields: dict[str, Any]) -> None:
    await defend(harness, "hold")
    lead = await harness.lead(token="maple", **fields)
    assert (await harness.stored(lead))["suspected"] is None
    assert await states(harness, lead) == {"email": ("delivered", None)}


async def test_a_flood_of_one_text_is_quarantined_until_it_ends(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    await defend(harness, "hold")

    async def suspected(number: int, message: str) -> bool:
        lead = await harness.lead(token="maple", message=message, requestor_email=f"{number}@renter.test")
        return (await harness.stored(lead))["suspected"] is not None

    assert [await suspected(n, "Buy  this" if n % 2 else "buy THIS") for n in range(FLOOD_COUNT + 2)] == [
        *[False] * FLOOD_COUNT,
        True,
        True,
    ]
    assert not await suspected(98, "Is it still free?")
    clock.step(601)
    assert not await suspected(99, "Buy this")


@pytest.mark.parametrize(
    ("customers", "sources", "suspected"),
    [
        (1, FLOOD_COUNT + 3, 3),
        (FLOOD_COUNT + 3, 1, 3),
        (1, 0, 3),
        (2, FLOOD_COUNT + 3, 0),
        (FLOOD_COUNT + 3, FLOOD_COUNT + 3, 0),
        (FLOOD_COUNT + 3, 0, 0),
    ],
)
@pytest.mark.parametrize("batch", [1, FLOOD_COUNT + 3])
def test_a_flood_is_of_one_customer_or_one_source(
    commands: Commands, customers: int, sources: int, suspected: int, batch: int
) -> None:
    """sources: 0 for one that many clients share."""
    commands.run("building", "add", "--name", "Oak", "--token", "oak", "--spam-defence", "hold")
    leads = [
        {
            "token": "oak",
            "email": f"{number % customers}@renter.test",
            "phone": None,
            "source": f"192.0.2.{number % sources}" if sources else None,
            "message": "I am interested in this apartment.",
        }
        for number in range(FLOOD_COUNT + 3)
    ]
    for first in range(0, len(leads), batch):
        commands.leads(*leads[first : first + batch])
    assert len(commands.rows("lead", "list", "--suspected")) == suspected


async def test_a_flood_within_one_batch_is_quarantined(harness: ServerHarness) -> None:
    await defend(harness, "hold")
    async with held(harness):  # so that they become one batch
        leads = [
            asyncio.create_task(
                harness.lead(token="maple", message="Buy this", requestor_email=f"{n}@renter.test")
            )
            for n in range(FLOOD_COUNT + 3)
        ]
        await queued(harness, len(leads))
    stored = [await harness.stored(await lead) for lead in leads]
    assert sum(lead["suspected"] is not None for lead in stored) == 3


async def test_a_honeypot_text_of_any_length_is_accepted(harness: ServerHarness) -> None:
    lead = await harness.lead(token="maple", homepage="x" * 5_000)
    assert (await harness.stored(lead))["suspected"] is not None


async def test_a_clock_that_is_set_back_suspects_no_lead(harness: ServerHarness, clock: SteppedClock) -> None:
    await defend(harness, "hold")
    for number in range(FLOOD_COUNT):
        await harness.lead(token="maple", message="Is it free?", requestor_email=f"{number}@renter.test")
    clock.set_time_of_day(-86_400)
    lead = await harness.lead(token="maple", message="Is it free?")
    assert (await harness.stored(lead))["suspected"] is None


async def test_an_unassigned_honeypot_lead_goes_to_the_partner_and_is_marked(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    lead = await harness.lead(token="unknown", listing_source="june_homes", **FILLED_HONEYPOT)
    assert await states(harness, lead) == {
        "email": ("skipped", "no building matched"),
        "june_homes": ("delivered", None),
    }
    assert (await harness.change(lambda: assign_lead(ACTOR, lead, 1, clock.now()))).not_told is None
    assert (await states(harness, lead))["email"] == ("delivered", None)
    assert harness.mail.mails[0]["Subject"].startswith("Looks like spam: New lead: ")


async def test_a_suspected_unassigned_lead_is_quarantined_on_assignment(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    await defend(harness, "hold")
    lead = await harness.lead(token="unknown", **FILLED_HONEYPOT)
    assert (await states(harness, lead))["email"] == ("skipped", "no building matched")
    assigned = await harness.change(lambda: assign_lead(ACTOR, lead, 1, clock.now()))
    assert assigned.not_told == QUARANTINED_BY_HONEYPOT
    assert (await states(harness, lead))["email"] == ("quarantined", QUARANTINED_BY_HONEYPOT)


async def test_the_response_does_not_reveal_the_suspicion(harness: ServerHarness) -> None:
    plain, suspected = [
        await harness.post(
            {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test", **fields}}
        )
        for fields in ({}, FILLED_HONEYPOT)
    ]
    assert (plain.code, plain.body, suspected.code, suspected.body) == (201, b'{"id": 1}', 201, b'{"id": 2}')
    assert plain.headers.keys() == suspected.headers.keys()


async def test_the_version_of_the_consent_text_is_stored_as_evidence(harness: ServerHarness) -> None:
    lead = await harness.lead(token="maple", sms_consent="true", sms_consent_version="2026-11 en")
    assert (await harness.stored(lead))["sms_consent_evidence"]["version"] == "2026-11 en"
    lead = await harness.lead(token="maple", sms_consent="yes", sms_consent_version="2026-11 en")
    assert (await harness.stored(lead))["sms_consent_evidence"] is None


CONSENT = SmsConsent(NOW, "192.0.2.1", "a browser", "leads.test")


@pytest.mark.parametrize("defence", ["off", "hold", "mark"])
def test_C27_an_unattended_form_is_quarantined_with_any_defence(commands: Commands, defence: str) -> None:
    commands.run("building", "add", "--name", "Oak", "--agent-email", "agent@oak.test", "--token", "oak")
    commands.run("building", "update", 1, "--spam-defence", defence)
    sent = {"token": "oak", "is_unattended": True, "listing_source": "june_homes", "sms_consent": CONSENT}
    commands.leads(sent, {**sent, "token": None, "spam_signals": SpamSignals(honeypot=True)})
    reason = f"suspected of spam: {UNATTENDED}"
    rows = {(r["lead_id"], r["kind"]): (r["state"], r["reason"]) for r in commands.rows("outbox", "list")}
    assert rows == {
        (1, "email"): ("quarantined", reason),
        (1, "june_homes"): ("quarantined", reason),
        (2, "email"): ("skipped", "no building matched"),
        (2, "june_homes"): ("quarantined", reason),
    }
    assert commands.row("lead", "assign", 2, 1)["not_told"] == reason
    assert commands.row("lead", "release", 1)["released"] == 2
    assert commands.row("lead", "show", 1)["suspected"] is None
    assert commands.row("lead", "show", 2)["suspected"] == UNATTENDED


def test_C27_an_unattended_form_records_no_consent(commands: Commands) -> None:
    commands.leads({"sms_consent": CONSENT}, {"sms_consent": CONSENT, "is_unattended": True})
    attended, unattended = (commands.row("lead", "show", lead) for lead in (1, 2))
    assert attended["sms_consent"] and attended["sms_consent_evidence"]["ip"] == "192.0.2.1"
    assert not unattended["sms_consent"] and unattended["sms_consent_evidence"] is None
    with commands.database():
        assert Lead.get_by_id(2).sms_consent_ip is None


def hold(commands: Commands) -> None:
    """Let the building that `commands.leads` registers hold what looks like spam."""
    commands.leads({"email": "first@renter.test", "phone": None})
    commands.run("building", "update", 1, "--spam-defence", "hold")


def test_an_operator_lists_and_releases_suspected_leads(commands: Commands) -> None:
    hold(commands)
    plain, suspected = (
        1,
        *commands.leads({"email": "spam@renter.test", "spam_signals": SpamSignals(honeypot=True)}),
    )
    assert [row["id"] for row in commands.rows("lead", "list", "--suspected")] == [suspected]
    assert "'lead release 2' lets it leave" in commands.refusal("outbox", "retry", 2)
    assert commands.row("lead", "release", suspected) == {"id": suspected, "released": 1}
    assert commands.rows("lead", "list", "--suspected") == []
    assert [row["state"] for row in commands.rows("outbox", "list")] == ["pending", "pending"]
    assert "not suspected of anything" in commands.refusal("lead", "release", plain)
    assert "there is no lead 99" in commands.refusal("lead", "release", 99)


def test_quarantined_deliveries_are_skipped_or_erased_with_the_renter(commands: Commands) -> None:
    hold(commands)
    commands.leads(
        {"email": "a@renter.test", "phone": None, "spam_signals": SpamSignals(honeypot=True)},
        {"email": "b@renter.test", "phone": None, "spam_signals": SpamSignals(honeypot=True)},
    )
    commands.run("outbox", "skip", 2)
    commands.run("customer", "erase", 3, "--yes")
    assert [row["state"] for row in commands.rows("outbox", "list")] == ["skipped", "skipped", "pending"]
    assert [row["id"] for row in commands.rows("lead", "list", "--suspected")] == [2]
    assert "'lead release 2' comes first" in commands.refusal("outbox", "retry", 2)
    with commands.database():
        assert RecentText.select().count() == 0


def test_doctor_reports_quarantined_leads(commands: Commands) -> None:
    hold(commands)
    commands.leads({"spam_signals": SpamSignals(honeypot=True)})
    said = commands.run("doctor", status=1).stdout
    assert "1 are held as they look like spam" in said and "lead release" in said


def test_a_spam_defence_is_one_of_three_values(commands: Commands) -> None:
    commands.run("building", "add", "--name", "The Oak", "--spam-defence", "mark")
    assert commands.row("building", "show", 1)["spam_defence"] == "mark"
    assert commands.row("building", "update", 1, "--spam-defence", "")["spam_defence"] == "off"
    assert "off, hold, mark" in commands.refusal("building", "update", 1, "--spam-defence", "loud")
