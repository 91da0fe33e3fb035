"""Single fields: what is stored of each spelling, and which are refused (C8, C9, C14, C16)."""

from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import LEADS, ServerHarness
from leads_sandbox import Sandbox

from handlers.api.openapi import document
from handlers.api.submission import RequestMetadata, read_submission
from handlers.errors import BadRequest

INVISIBLE = "\u200b\u200c\u200e\u200f\ufeff\u2060\u00ad\u202a\u202e\u2066\u2069\u061c"


def read(is_program_form: bool = False, **fields: Any) -> Any:
    metadata = RequestMetadata(
        "r" * 32,
        datetime(2026, 11, 23, tzinfo=UTC),
        "192.0.2.1",
        None,
        "maple.test",
        is_program_form=is_program_form,
    )
    return read_submission({"tour_request": {"requestor_email": "a@b.test", **fields}}, metadata)


def text_of(mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    text: str = part.get_content()
    return text.replace("\r\n", "\n")


@pytest.mark.parametrize(
    "typed",
    [" jane@renter.test ", "jane@renter.test\u2029", "\u00a0jane@renter.test\u2028", "\u3000jane@renter.test"]
    + [f"{sign}jane@renter.test{sign}" for sign in INVISIBLE]
    + [f" {INVISIBLE} jane@renter.test {INVISIBLE} "]
    + ["mailto:jane@renter.test", "MAILTO:jane@renter.test", "MailTo: jane@renter.test"]
    + ["mailto:jane@renter.test?subject=Tour", "mailto:jane@renter.test?cc=oak@renter.test&body=Hi."]
    + [
        "<jane@renter.test>",
        "< jane@renter.test >",
        "<<jane@renter.test>>",
        "<jane@renter.test",
        "jane@renter.test>",
    ]
    + [
        "jane@renter.test.",
        "jane@renter.test,",
        "jane@renter.test;",
        "jane@renter.test ; ",
        "jane@renter.test...",
    ]
    + ["mailto:<jane@renter.test>", "<mailto:jane@renter.test>.", " <MAILTO: <jane@renter.test>;>, "]
    + ["\u202amailto:jane@renter.test\u202c,", "mailto:mailto:jane@renter.test", "<jane@renter.test\u200b>"],
    ids=ascii,
)
async def test_C9_ends_that_are_no_part_of_an_address_are_dropped(harness: ServerHarness, typed: str) -> None:
    await harness.lead(requestor_email=typed)
    lead = await harness.stored(1)
    assert lead["requestor_email"] == lead["customer"]["email"] == "jane@renter.test"
    assert lead["sent"]["email"] == typed


async def test_C9_an_address_that_needs_no_cleaning_has_no_sent_text(harness: ServerHarness) -> None:
    await harness.lead(requestor_email="Jane@Renter.test")
    lead = await harness.stored(1)
    assert (lead["requestor_email"], lead["sent"]["email"]) == ("Jane@Renter.test", None)


async def test_C19_spellings_of_an_address_are_one_customer(harness: ServerHarness) -> None:
    for typed in ("jane@renter.test", "mailto:Jane@Renter.test", "<jane@renter.test>,\u200b"):
        await harness.lead(requestor_email=typed)
    assert {lead["customer"]["id"] for lead in await harness.leads()} == {1}


@pytest.mark.parametrize(
    "email",
    [
        "jane.@docomo.ne.jp",
        "a..b@x.test",
        ".jane@x.test",
        ".@b.test",
        "...@x.test",
        "Jane..Doe.@X.test",
        "a@b",
        "a@1.2.3.4",
    ]
    + [
        "a@x--y.test",
        "a@xn--zzzzzz.test",
        "!#$%&'*+/=?^_`{|}~-@x.test",
        "a@" + "b" * 63,
        "x" * 65 + "@x.test",
    ]
    + ["x" * 247 + "@x.test"],
)
async def test_C9_what_a_browser_accepts_is_accepted(harness: ServerHarness, email: str) -> None:
    await harness.lead(requestor_email=email)
    assert (await harness.stored(1))["requestor_email"] == email


@pytest.mark.parametrize(
    "email",
    [
        "x" * 248 + "@x.test",
        "a@" + "b" * 64,
        "a@-b.test",
        "a@b-.test",
        "a@b..test",
        "a@b_c.test",
        "a b@x.test",
    ]
    + [
        "@x.test",
        "jane",
        "jane@",
        "jane@.",
        "mailto:",
        "<>",
        "mailto:?subject=x",
        "\u200b",
        "...",
        '"a b"@x.test',
    ]
    + [
        "jane@renter.test, x@y.test",
        "jane@renter.test;x@y.test",
        "Jane <jane@renter.test>",
        "a@b.test?subject=x",
    ]
    + ["ja\u200bne@renter.test", "jane@renter.test (work)", "a@[127.0.0.1]", "a@b.test\x00@"],
    ids=ascii,
)
async def test_C9_what_is_no_address_is_400(harness: ServerHarness, email: str) -> None:
    response = await harness.post({"tour_request": {"requestor_email": email}})
    assert (response.code, response.body) == (400, b'{"error": "Unable to create tour request"}')
    assert await harness.leads() == []


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("jane tag@renter.test", "jane+tag@renter.test"),
        (" jane tag two@renter.test ", "jane+tag+two@renter.test"),
        ("mailto:jane tag@renter.test", "jane+tag@renter.test"),
        ("jane@renter.test", "jane@renter.test"),
    ],
)
def test_C9_a_space_of_a_programs_form_is_a_plus(typed: str, stored: str) -> None:
    lead = read(is_program_form=True, requestor_email=typed)
    assert (lead.renter.email, lead.renter.email_key) == (stored, stored)
    assert lead.sent_email == (None if typed == stored else typed)
    if " " in typed.strip():
        with pytest.raises(BadRequest, match="400"):
            read(requestor_email=typed)


@pytest.mark.parametrize("typed", ["jane@renter .test", "Jane <jane@renter.test>", " @renter.test"])
def test_C9_a_programs_form_may_have_no_other_space(typed: str) -> None:
    with pytest.raises(BadRequest, match="400"):
        read(is_program_form=True, requestor_email=typed)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\nb"),
        ("a\n\rb", "a\n\nb"),
        ("a\r\r\nb\n", "a\n\nb\n"),
        ("\ta\r\n\r\n\x0bb\x00", "\ta\n\nb"),
        ("a\u2028b", "a\u2028b"),
    ],
    ids=ascii,
)
async def test_C16_a_line_break_is_stored_as_a_line_feed(
    harness: ServerHarness, sent: str, stored: str
) -> None:
    await harness.lead(message=sent)
    assert (await harness.stored(1))["message"] == stored


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"], ids=ascii)
async def test_C16_a_line_break_counts_as_one(harness: ServerHarness, line_break: str) -> None:
    longest = ("x" * 9 + line_break) * 1_000
    form = {"tour_request[requestor_email]": "a@b.test", "tour_request[message]": longest}
    headers = {"Content_Type": "application/x-www-form-urlencoded"}
    assert (await harness.request("POST", LEADS, urlencode(form), **headers)).code == 201
    assert len((await harness.stored(1))["message"]) == 10_000
    form["tour_request[message]"] += line_break
    response = await harness.request("POST", LEADS, urlencode(form), **headers)
    assert (response.code, response.body) == (
        400,
        b'{"error": "message is too long (maximum is 10000 characters)"}',
    )


def test_C14_openapi_has_no_boolean_consent() -> None:
    schemas = document()["components"]["schemas"]
    consent = schemas["Lead"]["properties"]["tour_request"]["properties"]["sms_consent"]
    assert (consent["type"], consent["enum"]) == (["string", "null"], ["true", "false", "", None])
    form = schemas["LeadForm"]["properties"]["tour_request[sms_consent]"]
    assert (form["type"], form["enum"]) == ("string", ["true", "false", ""])
    name = schemas["Lead"]["properties"]["tour_request"]["properties"]["requestor_name"]
    assert name["type"] == ["string", "number", "boolean", "null"] and "enum" not in name


@pytest.mark.parametrize(
    "value", [True, "True", "TRUE", "1", 1, 0, "0", "yes", "on", "checked", " true", "FALSE"]
)
def test_C14_diagnosis_names_each_value_that_is_no_consent(leads_sandbox: Sandbox, value: Any) -> None:
    leads_sandbox.lead(sms_consent=value)
    assert "no consent is recorded" in leads_sandbox.diagnosis()["consent-not-given"]


@pytest.mark.parametrize("value", ["true", "false", False, None, "", "  ", "\t"])
def test_C14_diagnosis_is_silent_about_consent_and_its_absence(leads_sandbox: Sandbox, value: Any) -> None:
    leads_sandbox.lead(sms_consent=value)
    assert leads_sandbox.diagnosis() == {}


@pytest.mark.parametrize(
    ("slot", "codes"),
    [
        ("2099-12-01", {"slot-is-a-date"}),
        (20991201, {"slot-is-a-date"}),
        ("Tue Dec 01 2099", {"slot-is-a-date"}),
        ("2099-12-01T10:00", {"slot-without-offset"}),
        ("2001-12-01T10:00", {"slot-without-offset", "slot-in-the-past"}),
        ("2001-12-01T10:00Z", {"slot-in-the-past"}),
        ("2001-12-01", {"slot-is-a-date", "slot-in-the-past"}),
        ("2099-11-01T01:30", {"slot-without-offset", "slot-at-a-change-of-clocks"}),
        ("2099-03-08T02:30", {"slot-without-offset", "slot-at-a-change-of-clocks"}),
        ("2099-11-01T01:30-05:00", set()),
        ("2099-12-01T10:00 UTC", set()),
        ("2099-12-01 10:00:00  0500", set()),
        ("2099-12-01T10:00-05:00[America/New_York]", set()),
        ("Tue Dec 01 2099 10:00:00 GMT-0500 (Eastern Standard Time)", set()),
        ("undefined", {"undefined-slot"}),
        ("Invalid Date", {"undefined-slot"}),
        ("", set()),
        (None, set()),
    ],
)
def test_C10_diagnosis_remarks_on_the_slot(leads_sandbox: Sandbox, slot: Any, codes: set[str]) -> None:
    leads_sandbox.lead(slot=slot)
    assert leads_sandbox.diagnosis().keys() == codes


def test_C10_a_refused_slot_is_not_remarked_on(leads_sandbox: Sandbox) -> None:
    body = {"token": "demo", "tour_request": {"requestor_email": "jane@renter.test", "slot": "1999-12-01"}}
    assert leads_sandbox.post(body).status == 400
    assert leads_sandbox.diagnosis().keys() == {"refused"}


async def test_C9_mail_reaches_an_agent_and_names_a_renter_with_odd_dots(harness: ServerHarness) -> None:
    await harness.building(token="oak", agent_email="agent.@docomo.ne.jp")
    await harness.lead(token="oak", requestor_email=" <mailto:jane..doe@x.test>. ")
    await harness.settled()
    assert harness.mail.recipients == [["agent.@docomo.ne.jp"]]
    (mail,) = harness.mail.mails
    (reply_to,) = mail["Reply-To"].addresses
    assert (reply_to.username, reply_to.domain) == ("jane..doe", "x.test")
    assert "E-mail: jane..doe@x.test" in text_of(mail)


async def test_C10_mail_and_invitation_name_the_day_alone(harness: ServerHarness) -> None:
    await harness.building(token="oak", time_zone="America/New_York")
    await harness.lead(token="oak", slot="2026-11-22")
    await harness.settled()
    (mail,) = harness.mail.mails
    text = text_of(mail)
    assert "Tour requested: Sunday, November 22, 2026\n" in text
    assert "named a day, but no time" in text and "already past when the lead came" in text
    assert b"DTSTART;VALUE=3DDATE:20261122" in harness.mail.raw[0]
