"""Form navigations without JavaScript: a page or a redirect for browsers, JSON for programs (C27a)."""

import json
import re
from collections.abc import Mapping
from urllib.parse import urlencode

import pytest
from command_line import ACTOR
from conftest import ServerHarness, StartHarness, SteppedClock
from tornado.httpclient import HTTPResponse

from models.building_actions import remove_building, update_building

FORM = "application/x-www-form-urlencoded"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
FIELDS = {"token": "maple", "tour_request[requestor_email]": "jane@renter.test"}


async def send(
    harness: ServerHarness, headers: Mapping[str, str] | None = None, /, **fields: str
) -> HTTPResponse:
    given = {"Content_Type": FORM, "Accept": BROWSER, "Origin": "https://maple.test", **(headers or {})}
    return await harness.client.fetch(
        harness.url + "/api/v1/website_leads",
        method="POST",
        body=urlencode({**FIELDS, **fields}),
        headers={name.replace("_", "-"): value for name, value in given.items()},
        raise_error=False,
        follow_redirects=False,
    )


def plain_text(harness: ServerHarness) -> str:
    """Return the text of the first mail."""
    body = harness.mail.mails[0].get_body(("plain",))
    assert body is not None
    return str(body.get_content())


async def thanked(harness: ServerHarness, response: HTTPResponse, **headers: str) -> HTTPResponse:
    """Follow the redirect to the thank-you page."""
    assert response.code == 303 and response.headers["Location"].startswith("/thank-you?"), response.body
    return await harness.request("GET", response.headers["Location"], **headers)


async def test_C27a_form_navigation_is_redirected_to_a_thank_you_page(harness: ServerHarness) -> None:
    response = await send(harness)
    assert (await harness.stored(1))["requestor_email"] == "jane@renter.test"
    page = await thanked(harness, response)
    assert page.code == 200 and page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"<h1>Thank you!</h1>" in page.body and b'href="https://maple.test"' in page.body
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Referrer-Policy"] == response.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    await thanked(harness, response)  # a reload
    assert len(await harness.leads()) == 1


async def test_C27a_thank_you_page_names_building_unit_and_tour(start_harness: StartHarness) -> None:
    harness = await start_harness()
    await harness.building(name="The <Maple>", time_zone="America/New_York", websites=["https://maple.test"])
    fields = {"tour_request[unit_preference]": "4B & loft", "tour_request[slot]": "2026-12-01T10:00"}
    response = await send(harness, **fields)
    assert "jane" not in response.headers["Location"]
    page = (await thanked(harness, response)).body.decode()
    assert "The &lt;Maple&gt;" in page and "4B &amp; loft" in page
    assert "Tuesday, December 1, 2026 at 10:00 AM" in page
    page = (await thanked(harness, response, Accept_Language="es")).body.decode()
    assert "martes, 1 de diciembre de 2026, 10:00" in page


async def test_C27a_thank_you_page_is_in_the_browsers_language(harness: ServerHarness) -> None:
    page = await thanked(harness, await send(harness), Accept_Language="ca;q=0.9, es-MX, en")
    assert "<h1>¡Gracias!</h1>" in page.body.decode() and b'lang="es"' in page.body


@pytest.mark.parametrize(
    "unit",
    [
        "see https://pills.test",
        "www.pills.test",
        "pills.test",
        "call evil@pills.test",
        "pills\uff0etest",
        "//pills",
        "10.0.0.1/x",
        "evil\u200b.com",
        "e\u00advil\u00ad.com",
        "evil\u3002com",
    ],
)
async def test_C27a_thank_you_page_shows_no_link_of_a_stranger(harness: ServerHarness, unit: str) -> None:
    response = await send(harness, **{"tour_request[unit_preference]": unit})
    assert "unit=" not in response.headers["Location"]
    assert (await harness.stored(1))["unit_preference"] == unit


async def test_C27a_thank_you_page_shows_forty_characters_of_a_unit(harness: ServerHarness) -> None:
    response = await send(harness, **{"tour_request[unit_preference]": "x" * 39 + "yz"})
    page = (await thanked(harness, response)).body
    assert b"x" * 39 + b"y<" in page and b"yz" not in page


async def test_C27a_thank_you_url_counts_for_an_hour(harness: ServerHarness, clock: SteppedClock) -> None:
    location = (await send(harness)).headers["Location"]
    clock.step(3_599)
    assert (await harness.request("GET", location)).code == 200
    clock.step(3)
    expired = await harness.request("GET", location)
    assert expired.code == 410 and b"no longer here" in expired.body


async def test_C27a_thank_you_url_that_is_not_signed_shows_nothing(harness: ServerHarness) -> None:
    location = (await send(harness, **{"tour_request[unit_preference]": "4B"})).headers["Location"]
    forged = [
        location.replace("unit=4B", "unit=Free+money"),
        location.replace("building=1", "building=2"),
        location[:-4],
        location + "&unit=Free+money",
        "/thank-you",
        "/thank-you?unit=x&until=99999999999&signature=",
        "/thank-you?&signature=%ff",
    ]
    for url in forged:
        page = await harness.request("GET", url)
        assert page.code == 410 and b"Free money" not in page.body and b"Maple" not in page.body, url


async def test_C27a_thank_you_page_may_be_framed_by_the_buildings_websites(harness: ServerHarness) -> None:
    urls = ["https://maple.test/a", "https://www.maple.test"]
    await harness.change(lambda: update_building(ACTOR, 1, {}, harness.clock.now(), urls))
    page = await thanked(harness, await send(harness, {"Origin": "https://www.maple.test"}))
    ancestors = page.headers["Content-Security-Policy"].partition("frame-ancestors ")[2]
    assert set(ancestors.split()) == {"'self'", "https://maple.test", "https://www.maple.test"}
    assert "X-Frame-Options" not in page.headers
    assert b'href="https://www.maple.test"' in page.body


async def test_C27a_thank_you_page_of_an_unassigned_lead_is_plain(harness: ServerHarness) -> None:
    response = await send(harness, {"Origin": "https://elsewhere.test"}, token="unknown")
    assert "building=" not in response.headers["Location"]
    page = await thanked(harness, response)
    assert page.code == 200 and b"Thank you!" in page.body and b"href" not in page.body
    # A registered website may frame it all the same.
    page = await thanked(harness, await send(harness, token="unknown"))
    assert b'href="https://maple.test"' in page.body
    assert page.headers["Content-Security-Policy"].endswith("'self' https://maple.test")


async def test_C27a_thank_you_page_of_a_removed_building_is_plain(harness: ServerHarness) -> None:
    response = await send(harness)
    await harness.change(lambda: remove_building(ACTOR, 1, harness.clock.now()))
    page = await thanked(harness, response)
    assert page.code == 200 and b"Maple" not in page.body


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "*/*"},
        {"Accept": "application/json, text/html"},
        {"Accept": BROWSER, "Content_Type": "application/json"},
    ],
)
async def test_C27a_client_that_does_not_prefer_html_gets_json(
    harness: ServerHarness, headers: dict[str, str]
) -> None:
    response = await send(harness, headers)
    assert response.headers["Content-Type"] == "application/json"
    assert list(json.loads(response.body)) in (["id"], ["error"])


@pytest.mark.parametrize(
    "url", ["https://maple.test/thanks?x=1", "https://MAPLE.test:443/", " https://maple.test/a "]
)
async def test_C27a_return_to_on_own_origin_is_redirected_to(harness: ServerHarness, url: str) -> None:
    response = await send(harness, return_to=url)
    assert (response.code, response.headers["Location"]) == (303, url.strip())


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.test/",
        "https://maple.test.elsewhere.test/",
        "https://maple.test@elsewhere.test/",
        "http://maple.test/",
        "//elsewhere.test/",
        "javascript:alert(1)",
        "https://maple.test/\r\nSet-Cookie: a=b",
        "https://maple.test/\u2028x",
        "",
    ],
)
async def test_C27a_return_to_on_another_origin_is_ignored(harness: ServerHarness, url: str) -> None:
    response = await send(harness, return_to=url)
    assert response.code == 303 and response.headers["Location"].startswith("/thank-you?")
    assert "Set-Cookie" not in response.headers


async def test_C27a_program_that_accepts_html_gets_json(harness: ServerHarness) -> None:
    response = await harness.request(
        "POST",
        "/api/v1/website_leads",
        urlencode({**FIELDS, "return_to": "https://maple.test/"}),
        Content_Type=FORM,
        Accept=BROWSER,
    )
    assert (response.code, response.body) == (201, b'{"id": 1}')


NAVIGATION = {
    "Sec_Fetch_Mode": "navigate",
    "Sec_Fetch_Dest": "document",
    "Sec_Fetch_Site": "cross-site",
    "Sec_Fetch_User": "?1",
}


@pytest.mark.parametrize(
    "origin", ["null", "https://www.maple.test", "https://elsewhere.test", "file://", "x"]
)
@pytest.mark.parametrize("metadata", [NAVIGATION, {}])
async def test_C27_a_form_navigation_is_taken_from_any_origin(
    harness: ServerHarness, origin: str, metadata: dict[str, str]
) -> None:
    response = await send(harness, {"Origin": origin, **metadata}, **{"tour_request[sms_consent]": "true"})
    assert response.code == 303
    assert "Access-Control-Allow-Origin" not in response.headers
    stored = await harness.stored(1)
    assert stored["unregistered_origin"] == origin and stored["sms_consent"]
    assert stored["sms_consent_evidence"]["origin"] == origin
    assert [row["state"] for row in await harness.settled(kind="email")] == ["delivered"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"Sec_Fetch_User": ""},
        {"Sec_Fetch_Dest": "iframe"},
        {"Sec_Fetch_Dest": "frame"},
        {"Sec_Fetch_Dest": "object", "Sec_Fetch_User": ""},
    ],
)
@pytest.mark.parametrize("defence", ["off", "mark", "hold"])
async def test_C27_an_unattended_form_is_quarantined(
    harness: ServerHarness, metadata: dict[str, str], defence: str
) -> None:
    await harness.change(lambda: update_building(ACTOR, 1, {"spam_defence": defence}, harness.clock.now()))
    headers = {name: value for name, value in {**NAVIGATION, **metadata}.items() if value}
    fields = {"tour_request[sms_consent]": "true", "tour_request[listing_source]": "june_homes"}
    response = await send(harness, {"Origin": "https://evil.test", **headers}, **fields)
    assert response.code == 303
    stored = await harness.stored(1)
    assert not stored["sms_consent"] and stored["sms_consent_evidence"] is None
    assert {row["state"] for row in await harness.settled()} == {"quarantined"}
    # A registered website may frame its form, and send it by a script.
    response = await send(harness, headers, **fields)
    stored = await harness.stored(2)
    assert stored["sms_consent"] and stored["unregistered_origin"] is None


async def test_C27_webkit_never_says_that_a_button_was_pressed(harness: ServerHarness) -> None:
    """Safari sends fetch metadata without Sec-Fetch-User: its honest renters must not be quarantined."""
    safari = {
        **{name: value for name, value in NAVIGATION.items() if name != "Sec_Fetch_User"},
        "Origin": "null",
        "User_Agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15"
        " (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
    }
    await send(harness, safari, **{"tour_request[sms_consent]": "true"})
    await send(harness, {**safari, "Sec_Fetch_Dest": "iframe"})
    chrome = safari["User_Agent"] + " Chrome/142.0.0.0"
    await send(harness, {**safari, "User_Agent": chrome})
    states = [row["state"] for row in await harness.settled()]
    assert states == ["delivered", "quarantined", "quarantined"]
    assert (await harness.stored(1))["sms_consent"]


async def test_C27a_a_failure_after_the_commit_still_thanks(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("server.show_building", fail)
    response = await send(harness)
    assert response.code == 303 and "building=" not in response.headers["Location"]
    assert len(await harness.leads()) == 1


@pytest.mark.parametrize("mode", ["cors", "no-cors", "same-origin"])
async def test_C27_a_script_with_a_forms_type_needs_a_registered_origin(
    harness: ServerHarness, mode: str
) -> None:
    response = await send(harness, {"Origin": "https://elsewhere.test", "Sec_Fetch_Mode": mode})
    assert (response.code, response.headers["Content-Type"]) == (403, "application/json")
    assert await harness.leads() == []


@pytest.mark.parametrize(
    ("headers", "website"),
    [
        ({"Origin": "https://maple.test"}, "maple.test"),
        ({"Origin": "https://maple.test", "Referer": "https://other.test/"}, "maple.test"),
        ({"Origin": "null", "Referer": "https://www.maple.test:8443/a"}, "www.maple.test:8443"),
        ({"Origin": "null"}, "typed.test"),
    ],
)
async def test_C13_the_agent_reads_the_pages_own_host(
    harness: ServerHarness, headers: dict[str, str], website: str
) -> None:
    await send(harness, headers, **{"tour_request[request_host]": "typed.test"})
    stored = await harness.stored(1)
    assert (stored["website"], stored["request_host"]) == (website, "typed.test")
    await harness.settled()
    text = plain_text(harness)
    assert re.search(rf"Website:? +{re.escape(website)}\r\n", text), text


async def test_C13_a_programs_lead_has_no_website_but_the_typed_one(harness: ServerHarness) -> None:
    await harness.lead(token="maple")
    stored = await harness.stored(1)
    assert stored["request_host"] == harness.url.partition("//")[2] and stored["website"] is None
    await harness.settled()
    assert "Website" not in plain_text(harness)


@pytest.mark.parametrize(
    ("fields", "status", "english", "spanish"),
    [
        (
            {"tour_request[slot]": "tomorrow"},
            400,
            "Please check the date and time of the tour.",
            "Revise la fecha y la hora de la visita.",
        ),
        (
            {"tour_request[requestor_email]": "jane"},
            400,
            "Please check your e-mail address.",
            "Revise su correo electrónico.",
        ),
        (
            {"tour_request[message]": "x" * 10_001},
            400,
            "Message is too long. At most 10,000 characters fit.",
            "Mensaje: el texto es demasiado largo. Caben 10000 caracteres como máximo.",
        ),
        ({"tour_request[requestor_name]": "x" * 1_001}, 400, "Name is too long.", "Nombre: el texto"),
    ],
)
async def test_C27a_a_refusal_names_the_field_to_the_renter(
    harness: ServerHarness, fields: dict[str, str], status: int, english: str, spanish: str
) -> None:
    response = await send(harness, **fields)
    page = response.body.decode()
    assert response.code == status and english in page and "<h1>That could not be sent.</h1>" in page
    assert "For the owner" not in page and "<script" not in page and "href" not in page
    assert "frame-ancestors 'self' https://maple.test" in response.headers["Content-Security-Policy"]
    page = (await send(harness, {"Accept_Language": "es-MX"}, **fields)).body.decode()
    assert spanish in page and "<h1>No se pudo enviar.</h1>" in page


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (
            {"tour_request[listing_source]": "<script>"},
            "&#x27;&lt;script&gt;&#x27; is not a valid listing_source",
        ),
        ({"tour_request[message][]": "x"}, "message must be a string"),
    ],
)
async def test_C27a_a_fault_of_the_form_is_told_to_its_owner(
    harness: ServerHarness, fields: dict[str, str], error: str
) -> None:
    page = (await send(harness, **fields)).body.decode()
    assert "The form of this website has a fault." in page and "For the owner" in page
    assert error.replace("&#x27;", "&#39;") in page.replace("&#x27;", "&#39;"), page
    assert "<script" not in page


async def test_C27a_C29_over_the_limit_a_renter_reads_a_page(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="1/60")
    await harness.building(websites=["https://maple.test"])
    answers = [await send(harness) for _ in range(2)]
    assert [answer.code for answer in answers] == [303, 429]
    assert int(answers[1].headers["Retry-After"]) == 60
    assert b"Too many requests" in answers[1].body
