"""Which web pages may call the API, and what a browser is told."""

import json

import pytest
from command_line import ACTOR
from conftest import LEADS, ServerHarness, StartHarness, SteppedClock

from models.building import Building, remove_building, update_building
from models.origin import origin_of

LEAD = {"tour_request": {"requestor_email": "jane@renter.test"}}
EXPOSED = "Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, X-Request-Id"


async def test_C25_the_origin_of_a_registered_website_is_allowed(harness: ServerHarness) -> None:
    response = await harness.post(LEAD, Origin="https://maple.test")
    assert response.code == 201
    assert response.headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert response.headers["Access-Control-Expose-Headers"] == EXPOSED
    assert "Access-Control-Allow-Credentials" not in response.headers


async def test_C25_without_a_public_url_the_address_of_the_request_is_allowed(harness: ServerHarness) -> None:
    assert (await harness.post(LEAD, Origin=harness.url)).code == 201
    assert (await harness.post(LEAD, Host="leads.box:8080", Origin="http://leads.box:8080")).code == 201
    assert (await harness.post(LEAD, Host="leads.box:8080", Origin="http://leads.box:9090")).code == 403


async def test_C25_with_a_public_url_only_that_is(start_harness: StartHarness) -> None:
    harness = await start_harness(public_url="https://leads.office.test/")
    assert (await harness.post(LEAD, Origin="https://leads.office.test")).code == 201
    assert (await harness.post(LEAD, Origin=harness.url)).code == 403


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Maple.Test/apply?x=1", "https://maple.test"),
        ("https://maple.test:443/", "https://maple.test"),
        ("http://maple.test:80", "http://maple.test"),
        ("http://maple.test:8000/", "http://maple.test:8000"),
        ("https://bücher.test/", "https://xn--bcher-kva.test"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
    ],
)
def test_C25_an_origin_is_written_as_browsers_write_it(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    ["maple.test", "ftp://maple.test", "https://", "https://[", "http://a:b", ""]
    + [
        "https://exa mple.com",
        "https://*.x.test",
        "https://.",
        "https://a..b",
        "http://127.1",
        "https://a@b.test",
    ]
    + ["https://x.test\\@evil.test"],
)
def test_an_origin_is_asked_of_web_urls_alone(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        origin_of(url)


async def test_C25_a_building_registered_meanwhile_is_allowed_at_once_or_a_second_later(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    assert (await harness.post(LEAD, Origin="https://oak.test")).code == 403
    await harness.building(token="oak", website_url="https://oak.test")
    clock.step(1.1)
    assert (await harness.post(LEAD, Origin="https://oak.test")).code == 201


async def test_C25_a_website_taken_off_is_allowed_for_five_minutes_at_most(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    assert (await harness.post(LEAD, Origin="https://maple.test")).code == 201
    await harness.change(lambda: update_building(ACTOR, 1, {"website_url": ""}, clock.now()))
    clock.step(300.1)
    assert (await harness.post(LEAD, Origin="https://maple.test")).code == 403


async def test_C25_so_is_that_of_a_removed_building(harness: ServerHarness, clock: SteppedClock) -> None:
    await harness.change(lambda: remove_building(ACTOR, 1, clock.now()))
    assert (await harness.post(LEAD, Origin="https://maple.test")).code == 403


@pytest.mark.parametrize("path", [LEADS, "/api/v1/tour_requests/", "/api/v1/typo"])
async def test_C26_a_preflight_is_answered(harness: ServerHarness, path: str) -> None:
    response = await harness.request(
        "OPTIONS", path, Origin="https://maple.test", Access_Control_Request_Method="POST"
    )
    assert (response.code, response.body) == (204, b"")
    headers = response.headers
    assert headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert headers["Access-Control-Allow-Methods"] == "POST, OPTIONS"
    assert headers["Access-Control-Allow-Headers"] == "Content-Type, Accept, Idempotency-Key"
    assert int(headers["Access-Control-Max-Age"]) <= 300
    assert headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", LEADS, "{", 400),
        ("POST", LEADS, "x" * 70_000, 413),
        ("POST", LEADS, "x" * 2_000_000, 413),
        ("PUT", LEADS, "{}", 405),
        ("BREW", LEADS, None, 405),
        ("GET", "/api/typo", None, 404),
    ],
)
async def test_C26_errors_to_an_allowed_origin_carry_the_headers(
    harness: ServerHarness, method: str, path: str, body: str | None, status: int
) -> None:
    response = await harness.request(method, path, body, Origin="https://maple.test")
    assert response.code == status
    assert response.headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert response.headers["Access-Control-Expose-Headers"] == EXPOSED
    assert response.headers["Vary"] == "Origin"


async def test_C26_so_does_429(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="2/60")
    await harness.building(website_url="https://maple.test")
    answers = [await harness.post(LEAD, Origin="https://maple.test") for _ in range(3)]
    assert [answer.code for answer in answers] == [201, 201, 429]
    assert answers[2].headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert int(answers[2].headers["Retry-After"]) == 30


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.test",
        "http://maple.test",
        "https://maple.test:8443",
        "https://maple.test.evil.test",
        "null",
    ]
    + ["https://evil.test/https://maple.test", "https://maple.test/", "https://MAPLE.test", "*", ""],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
async def test_C27_another_origin_is_refused_and_creates_nothing(
    harness: ServerHarness, origin: str, method: str
) -> None:
    response = await harness.request(method, LEADS, json.dumps(LEAD), Origin=origin)
    assert response.code == 403
    assert json.loads(response.body) == {"error": f"origin {origin} is not registered for any building"}
    assert not [name for name in response.headers if name.lower().startswith("access-control-")]
    assert response.headers["Vary"] == "Origin"
    assert await harness.leads() == []


async def test_C27_without_an_origin_cors_does_not_apply(harness: ServerHarness) -> None:
    response = await harness.post(LEAD)
    assert response.code == 201
    assert "Access-Control-Allow-Origin" not in response.headers
    assert response.headers["Vary"] == "Origin"


async def test_behind_a_trusted_proxy_the_forwarded_scheme_is_the_requests_own(
    start_harness: StartHarness,
) -> None:
    harness = await start_harness(trusted_proxies="127.0.0.1")
    asked = {"Host": "leads.box", "Origin": "https://leads.box"}
    assert (await harness.post(LEAD, X_Forwarded_Proto="https", **asked)).code == 201
    assert (await harness.post(LEAD, **asked)).code == 403


async def test_an_untrusted_peer_cannot_forward_a_scheme(harness: ServerHarness) -> None:
    asked = {"Host": "leads.box", "Origin": "https://leads.box"}
    assert (await harness.post(LEAD, X_Forwarded_Proto="https", **asked)).code == 403


async def test_an_empty_origin_beside_an_absurd_host_is_refused_too(harness: ServerHarness) -> None:
    assert (await harness.post(LEAD, Origin="", Host="a..b")).code == 403


async def test_a_website_that_is_no_url_does_not_cost_the_others_theirs(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    oak = await harness.building(token="oak")
    await harness.change(
        lambda: Building.update(website_url="https://*.x.test").where(Building.id == oak).execute()
    )
    assert (await harness.post(LEAD, Origin="https://maple.test")).code == 201
