"""Texts of a client that an answer repeats, the log writes or a lead keeps: each has a bounded length."""

import io
import json
import logging

import pytest
from command_line import ACTOR
from conftest import LEADS, ServerHarness, StartHarness
from leads_sandbox import Sandbox
from raw_request import ask

from handlers.access_log import AccessLog
from handlers.log import LogHandler, TextFormatter
from models.building_actions import update_building
from models.origin import MAX_ORIGIN_LENGTH, is_origin, origin_of

LEAD = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}
LONG = 8_000  # characters, less than all headers together may have
BROWSER_FORM = {
    "Content_Type": "application/x-www-form-urlencoded",
    "Sec_Fetch_Mode": "navigate",
    "Sec_Fetch_User": "?1",
    "Sec_Fetch_Dest": "document",
}
FORM = "token=maple&tour_request[requestor_email]=jane@renter.test"


def long_origin(length: int) -> str:
    """Return an origin of this length."""
    labels = "a." * 100
    return "https://" + labels + "b" * (length - len("https://") - len(labels))


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> io.StringIO:
    """The access log of servers that are started after this fixture."""
    lines = io.StringIO()
    log = AccessLog(LogHandler(lines, TextFormatter()))
    monkeypatch.setattr("server.AccessLog", lambda: log)
    caplog.set_level(logging.INFO, "leads")
    return lines


@pytest.mark.parametrize(
    "origin",
    [
        long_origin(MAX_ORIGIN_LENGTH + 1),
        long_origin(LONG),
        "https://" + "evil" * (LONG // 4) + ".test",
        "https://evil.test/" + "x" * LONG,
        "https://evil.test:" + "4" * LONG,
        "x" * LONG,
        "%" * LONG,
        "\u00e9" * LONG,
    ],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET"])
async def test_C27_a_long_origin_is_none_and_is_cut(
    log_lines: io.StringIO, start_harness: StartHarness, origin: str, method: str
) -> None:
    harness = await start_harness()
    answer = await ask(harness, LEADS, method, f"Origin: {origin}\r\nContent-Length: 0\r\n", "latin-1")
    shown = origin[:MAX_ORIGIN_LENGTH] + "…"
    assert answer.status == 403
    assert json.loads(answer.body) == {"error": f"origin {shown} is not registered for any building"}
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    (line,) = log_lines.getvalue().splitlines()
    assert origin[:50] not in line and len(line) < 300


async def test_C25_the_longest_origin_can_be_registered(harness: ServerHarness) -> None:
    longest = long_origin(MAX_ORIGIN_LENGTH)
    assert is_origin(longest) and not is_origin(long_origin(MAX_ORIGIN_LENGTH + 1))
    with pytest.raises(ValueError, match="is not a website's URL"):
        origin_of(longest + "b")
    await harness.change(lambda: update_building(ACTOR, 1, {}, harness.clock.now(), [longest]))
    response = await harness.post(LEAD, Origin=longest)
    assert (response.code, response.headers["Access-Control-Allow-Origin"]) == (201, longest)
    assert (await harness.post(LEAD, Origin=longest + "b")).code == 403
    navigated = await harness.request("POST", LEADS, FORM, Origin=longest + "b", **BROWSER_FORM)
    assert navigated.code == 200  # of the thank-you page
    assert (await harness.stored(2))["unregistered_origin"] == longest + "…"


@pytest.mark.parametrize("url", ["https://x.test:" + "4" * LONG, "https://[" + "4" * LONG + "]/", "x" * LONG])
def test_an_error_about_a_url_quotes_its_beginning(url: str) -> None:
    with pytest.raises(ValueError) as refused:
        origin_of(url)
    assert len(str(refused.value)) < 1_200


@pytest.mark.parametrize("method", ["BREW" * 5, "BREW" * 5 + "S", "M" * LONG, "!#$%&'*+-.^_`|~" * 100])
async def test_C2_a_405_names_twenty_characters_of_the_method(harness: ServerHarness, method: str) -> None:
    answer = await ask(harness, LEADS, method)
    shown = method if len(method) <= 20 else method[:20] + "…"
    assert answer.status == 405 and answer.headers["Allow"] == "POST, OPTIONS"
    assert json.loads(answer.body) == {"error": f"{shown} is not allowed here; allowed: POST, OPTIONS"}


@pytest.mark.parametrize("path", [LEADS, "/api/none", "/docs", "/openapi.json"])
@pytest.mark.parametrize("host", ["x" * 261, "x." * (LONG // 2)])
async def test_a_long_host_is_malformed(harness: ServerHarness, path: str, host: str) -> None:
    answer = await ask(harness, path, headers=f"Host: {host}\r\n", host="")
    assert (answer.status, json.loads(answer.body)) == (400, {"error": "malformed Host"})


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_a_page_names_the_host_that_it_was_asked_at(harness: ServerHarness, path: str) -> None:
    answer = await ask(harness, path, headers="Host: leads.test:8080\r\n", host="")
    assert answer.status == 200 and b"http://leads.test:8080" in answer.body


async def test_C13_long_headers_are_kept_by_their_beginning(harness: ServerHarness) -> None:
    referer, agent = "https://maple.test:8443/" + "x" * LONG, "Mozilla/" + "5" * LONG
    fields = {**LEAD["tour_request"], "sms_consent": "true"}  # type: ignore[dict-item]
    sent = {"Referer": referer, "User_Agent": agent}
    assert (await harness.post({"token": "maple", "tour_request": fields}, **sent)).code == 201
    stored = await harness.stored(1)
    assert stored["website"] == "maple.test:8443"
    assert stored["sms_consent_evidence"]["user_agent"] == agent[:1_000]


async def test_C33_preferences_are_read_up_to_a_thousand_characters(harness: ServerHarness) -> None:
    assert (await harness.post(LEAD, Prefer="x," * 490 + "dry-run")).code == 200
    assert (await harness.post(LEAD, Prefer="x," * 2_000 + "dry-run")).code == 201


@pytest.mark.parametrize(
    ("languages", "language"),
    [
        ("es", b'lang="es"'),
        ("xx;q=0.1," * 100 + "es", b'lang="es"'),
        ("xx;q=0.1," * 800 + "es", b'lang="en"'),
        ("x" * LONG, b'lang="en"'),
        ("," * LONG + "es", b'lang="en"'),
    ],
)
async def test_C27a_languages_are_read_up_to_a_thousand_characters(
    harness: ServerHarness, languages: str, language: bytes
) -> None:
    refused = await harness.request(
        "POST", LEADS, "token=maple", Accept_Language=languages, Origin="https://maple.test", **BROWSER_FORM
    )
    expired = await harness.request("GET", "/thank-you", Accept_Language=languages)
    assert (refused.code, expired.code) == (400, 410)
    assert language in refused.body and language in expired.body


@pytest.mark.parametrize("filler", ["a/a,", ",", "a;q=0.1,"])
async def test_C27_types_that_a_form_accepts_are_read_up_to_a_thousand_characters(
    harness: ServerHarness, filler: str
) -> None:
    async def status(accept: str) -> int:
        sent = {
            "Content_Type": BROWSER_FORM["Content_Type"],
            "Accept": accept,
            "Origin": "https://maple.test",
        }
        return (await harness.request("POST", LEADS, FORM, **sent)).code

    assert await status(filler * (900 // len(filler)) + "text/html") == 200  # of the thank-you page
    assert await status(filler * (LONG // len(filler)) + ", text/html") == 201


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=" + "b" * LONG,
        'multipart/form-data; boundary="' + "b" * LONG + '"',
        "multipart/form-data; charset=" + "c" * LONG,
        "application/x-www-form-urlencoded; charset=" + "c" * LONG,
        "application/" + "j" * LONG,
    ],
)
async def test_C5_an_error_repeats_nothing_of_a_long_content_type(
    log_lines: io.StringIO, start_harness: StartHarness, content_type: str
) -> None:
    harness = await start_harness()
    response = await harness.request("POST", LEADS, "[", Content_Type=content_type)
    assert response.code == 400 and len(response.body) < 200
    assert len(log_lines.getvalue()) < 400 and "cccccccc" not in log_lines.getvalue()


async def test_no_header_of_an_answer_repeats_a_long_text(harness: ServerHarness) -> None:
    long = "x" * 1_001
    names = ("X_Request_Id", "X_Forwarded_For", "X_Forwarded_Proto", "Referer", "User_Agent", "Prefer")
    sent = {**dict.fromkeys(names, long), "Access_Control_Request_Headers": long, "Idempotency_Key": long}
    for method in ("POST", "GET", "OPTIONS"):
        response = await harness.request(method, f"{LEADS}?{long}", "{}", Origin="https://maple.test", **sent)
        assert len(response.body) < 400
        assert all(len(value) < 300 for value in response.headers.values())


def test_the_sandbox_quotes_the_beginning_of_a_long_text(leads_sandbox: Sandbox) -> None:
    leads_sandbox.post({"token": "demo", "f" * 20_000: "x", "tour_request": {}})
    (request,) = leads_sandbox.requests.wait()
    says = [hint["says"] for hint in request["diagnosis"]]
    assert says and all(len(text) <= 2_001 for text in says)
