"""Routes: paths, methods, and the headers that every answer has (C1-C4, C31)."""

import asyncio
import json
import re

import pytest
from conftest import LEADS, ServerHarness, SteppedClock

from handlers import health

EXACT_LEAD = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}


@pytest.mark.parametrize("path", [LEADS, LEADS + "/", "/api/v1/tour_requests", "/api/v1/tour_requests/"])
async def test_C1_both_paths_take_leads_with_trailing_slash_or_without(
    harness: ServerHarness, path: str
) -> None:
    response = await harness.post(EXACT_LEAD, path)
    assert (response.code, response.body) == (201, b'{"id": 1}')
    assert (await harness.stored(1))["building_id"] == 1


SPELLINGS = [
    "{}//",
    "{}///",
    "/{}",
    "//api//v1/website_leads",
    "/api/v1//website_leads",
    "///api///v1///tour_requests///",
    "{}.json",
    "{}.json/",
    "/{}.json//",
    "{}?a=b",
    "{}/?a=b",
    "{}.json?",
    "http://leads.test{}",
    "HTTP://leads.test:8080{}/",
    "https://leads.test/{}.json?a=/",
    "http://[2001:db8::1]:80{}",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_C1_path_is_found_in_any_usual_spelling(harness: ServerHarness, spelling: str) -> None:
    answer = await post(harness, spelling.format(LEADS))
    assert answer.startswith(b"HTTP/1.1 201 ") and answer.endswith(b'{"id": 1}'), answer
    assert (await harness.stored(1))["building_id"] == 1


async def post(harness: ServerHarness, target: str, host: str = "Host: x\r\n", version: str = "1.1") -> bytes:
    """POST EXACT_LEAD to a request target that is sent as it is."""
    body = json.dumps(EXACT_LEAD).encode()
    head = f"POST {target} HTTP/{version}\r\n{host}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return await harness.raw(head.encode() + body)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("authority", ["leads.test", "leads.test:8080", "[::1]:80"])
async def test_C1_authority_of_an_absolute_form_replaces_the_host(
    harness: ServerHarness, authority: str, version: str
) -> None:
    answer = await post(harness, f"http://{authority}{LEADS}", "Host: elsewhere.test\r\n", version)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert (await harness.stored(1))["request_host"] == authority


async def test_C1_absolute_form_of_http_1_0_needs_no_host(harness: ServerHarness) -> None:
    assert (await post(harness, f"http://leads.test{LEADS}", "", "1.0")).startswith(b"HTTP/1.1 201 ")
    assert (await harness.stored(1))["request_host"] == "leads.test"


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("", "Host: x\r\n"),
        ("jane@leads.test", "Host: x\r\n"),
        ("a,b", "Host: x\r\n"),
        ("leads.test", ""),
        ("leads.test", "Host: x\r\nHost: y\r\n"),
    ],
)
async def test_C1_malformed_authority_or_host_is_400(
    harness: ServerHarness, authority: str, host: str
) -> None:
    answer = await post(harness, f"http://{authority}{LEADS}", host)
    assert answer.startswith(b"HTTP/1.1 400 ") and b'{"error": "malformed Host"}' in answer


async def test_C25_absolute_form_names_the_origin_that_the_request_was_addressed_to(
    harness: ServerHarness,
) -> None:
    host = "Host: elsewhere.test\r\nOrigin: http://leads.test\r\n"
    answer = await post(harness, f"http://leads.test{LEADS}", host)
    assert b"Access-Control-Allow-Origin: http://leads.test\r\n" in answer


async def test_absolute_form_of_a_page_is_the_page(harness: ServerHarness) -> None:
    request = "GET http://leads.test/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert (await harness.raw(request.encode())).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
async def test_C2_other_method_is_405_with_allow(harness: ServerHarness, method: str) -> None:
    response = await harness.request(method, LEADS)
    assert response.code == 405
    assert response.headers["Allow"] == "POST, OPTIONS"
    if method != "HEAD":
        assert json.loads(response.body) == {"error": f"{method} is not allowed here; allowed: POST, OPTIONS"}


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/",
        "//api",
        "/api/v1/leads",
        "//api//v1/leads/",
        LEADS + "/1",
        LEADS + ".xml",
        LEADS + ".json.json",
        LEADS + "/.json",
        "/api/v2/website_leads",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_C2_unknown_path_is_404_in_json(harness: ServerHarness, path: str, method: str) -> None:
    response = await harness.request(method, path)
    assert response.code == 404
    assert response.headers["Content-Type"] == "application/json"
    assert list(json.loads(response.body)) == ["error"]
    assert response.headers["RateLimit-Limit"] == "100000"


async def test_C2_no_api_route_returns_a_stored_lead(harness: ServerHarness) -> None:
    await harness.post(EXACT_LEAD)
    for path in (LEADS, LEADS + "/1", "/api/v1/leads/1", "/api/v1/customers/1", "/api/v1/buildings/1"):
        response = await harness.request("GET", path)
        assert response.code in (404, 405)
        assert b"renter.test" not in response.body


async def test_C2_options_without_origin_lists_allowed_methods(harness: ServerHarness) -> None:
    response = await harness.request("OPTIONS", LEADS)
    assert (response.code, response.headers["Allow"], response.body) == (204, "POST, OPTIONS", b"")


async def test_C3_authorization_header_is_ignored(harness: ServerHarness) -> None:
    response = await harness.post({"tour_request": EXACT_LEAD["tour_request"]}, Authorization="Bearer maple")
    assert response.code == 201
    assert (await harness.stored(1))["building_id"] is None


async def test_C4_success_is_201_with_only_the_id(harness: ServerHarness) -> None:
    for expected in (1, 2, 3):
        response = await harness.post(EXACT_LEAD)
        assert (response.code, response.reason) == (201, "Created")
        assert response.headers["Content-Type"] == "application/json"
        assert response.body == f'{{"id": {expected}}}'.encode()


async def test_C4_lead_id_is_never_reused(harness: ServerHarness) -> None:
    from models.deal import Deal
    from models.lead import Lead
    from models.outbox.delivery import Delivery, DeliveryAttempt

    def erase_the_newest() -> None:
        for table in (DeliveryAttempt, Delivery, Deal, Lead):
            table.delete().execute()

    assert await harness.lead(token="maple") == 1
    await harness.settled()
    await harness.change(erase_the_newest)
    assert await harness.lead(token="maple") == 2


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", LEADS, json.dumps(EXACT_LEAD)),
        ("POST", LEADS, "{"),
        ("POST", LEADS, "x" * 70_000),
        ("GET", LEADS, None),
        ("BREW", LEADS, None),
        ("OPTIONS", LEADS, None),
        ("GET", "/api/none", None),
    ],
)
async def test_C31_every_answer_has_rate_limit_and_request_id_headers(
    harness: ServerHarness, method: str, path: str, body: str | None
) -> None:
    headers = (await harness.request(method, path, body)).headers
    assert headers["RateLimit-Limit"] == "100000"
    assert int(headers["RateLimit-Remaining"]) <= 99_999
    assert int(headers["RateLimit-Reset"]) >= 0
    assert re.fullmatch(r"[0-9a-f]{32}", headers["X-Request-Id"])
    assert headers["Vary"] == "Origin"


async def test_answers_have_no_server_header(harness: ServerHarness) -> None:
    for path in (LEADS, "/nothing", "/livez"):
        assert "Server" not in (await harness.request("GET", path)).headers


async def test_health_checks_return_200(harness: ServerHarness) -> None:
    for path in ("/livez", "/readyz"):
        assert (await harness.request("GET", path)).code == 200


async def test_unknown_path_outside_api_is_404_in_json(harness: ServerHarness) -> None:
    response = await harness.request("GET", "/")
    assert response.code == 404
    assert "/api/v1/website_leads" in json.loads(response.body)["error"]


@pytest.mark.parametrize("length", ["abc", "+5", "-5", "9" * 5_000, "99999999999999999999"])
async def test_C2_malformed_content_length_is_refused_in_json(harness: ServerHarness, length: str) -> None:
    answer = await harness.raw(
        f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
    )
    status, body = answer.split(maxsplit=2)[1], answer.partition(b"\r\n\r\n")[2]
    assert status == (b"413" if length.isdigit() else b"400")
    assert list(json.loads(body)) == ["error"]


async def test_readiness_check_is_cached_shared_and_times_out() -> None:
    clock, asked, gate = SteppedClock(), [], asyncio.Event()

    async def write() -> None:
        asked.append(1)
        await gate.wait()

    readiness = health.Readiness(write, clock)
    timeout, health.CHECK_TIMEOUT_SECONDS = health.CHECK_TIMEOUT_SECONDS, 0.01
    try:
        answers = await asyncio.gather(readiness.failure(), readiness.failure())
        clock.step(5)
        assert [*answers, await readiness.failure()] == ["the database does not answer"] * 3
        assert len(asked) == 1
        gate.set()
        await asyncio.sleep(0)
        assert await readiness.failure() is None
    finally:
        health.CHECK_TIMEOUT_SECONDS = timeout
    for step, expected in ((0.9, 2), (0.2, 3), (0.5, 3)):
        clock.step(step)
        assert await readiness.failure() is None
        assert len(asked) <= expected
    assert len(asked) >= 2


@pytest.mark.parametrize("path", ["/livez", "/docs", "/static/lead-form.js", "/nothing", "/openapi.json"])
@pytest.mark.parametrize(
    "host", ["", "Host: \r\n", "Host: x:" + "9" * 5_000 + "\r\n", "Host: a b\r\n", "Host: a\r\nHost: b\r\n"]
)
async def test_malformed_host_of_a_page_is_400_in_json(
    harness: ServerHarness, caplog: pytest.LogCaptureFixture, path: str, host: str
) -> None:
    answer = await harness.raw(f"GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "malformed Host"}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
