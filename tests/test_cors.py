"""CORS: the origins that may call the API, and the headers that their pages get (C25-C27)."""

import json

import pytest
from command_line import ACTOR
from conftest import LEADS, ServerHarness, StartHarness, SteppedClock
from tornado.httpclient import HTTPResponse

from models.building import BuildingWebsite
from models.building_actions import remove_building, update_building
from models.origin import origin_of

LEAD = {"tour_request": {"requestor_email": "jane@renter.test"}}
EXPOSED = {
    *("Retry-After", "Link", "Preference-Applied", "X-Request-Id"),
    *("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"),
}


def exposed(response: HTTPResponse) -> set[str]:
    return set(response.headers["Access-Control-Expose-Headers"].split(", "))


async def test_C25_registered_website_origin_is_allowed(harness: ServerHarness) -> None:
    response = await harness.post(LEAD, Origin="https://maple.test")
    assert response.code == 201
    assert response.headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert exposed(response) == EXPOSED
    assert "Access-Control-Allow-Credentials" not in response.headers


async def test_C25_without_public_url_the_requested_origin_is_allowed(harness: ServerHarness) -> None:
    assert (await harness.post(LEAD, Origin=harness.url)).code == 201
    assert (await harness.post(LEAD, Host="leads.box:8080", Origin="http://leads.box:8080")).code == 201
    assert (await harness.post(LEAD, Host="leads.box:8080", Origin="http://leads.box:9090")).code == 403


async def test_C25_public_url_replaces_the_requested_origin(start_harness: StartHarness) -> None:
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
def test_C25_origin_is_normalized_as_browsers_do(url: str, origin: str) -> None:
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
def test_origin_of_invalid_url_raises_value_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        origin_of(url)


async def test_C25_new_building_is_allowed_within_a_second(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    assert (await harness.post(LEAD, Origin="https://oak.test")).code == 403
    await harness.building(token="oak", websites=["https://oak.test"])
    clock.step(1.1)
    assert (await harness.post(LEAD, Origin="https://oak.test")).code == 201


async def test_C25_removed_website_is_refused_after_five_minutes(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    assert (await harness.post(LEAD, Origin="https://maple.test")).code == 201
    await harness.change(lambda: update_building(ACTOR, 1, {}, clock.now(), []))
    clock.step(300.1)
    assert (await harness.post(LEAD, Origin="https://maple.test")).code == 403


async def test_C25_website_of_removed_building_is_refused(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    await harness.change(lambda: remove_building(ACTOR, 1, clock.now()))
    assert (await harness.post(LEAD, Origin="https://maple.test")).code == 403


@pytest.mark.parametrize("path", [LEADS, "/api/v1/tour_requests/", "/api/v1/typo"])
async def test_C26_preflight_gets_204_with_cors_headers(harness: ServerHarness, path: str) -> None:
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
async def test_C26_errors_to_allowed_origin_have_cors_headers(
    harness: ServerHarness, method: str, path: str, body: str | None, status: int
) -> None:
    response = await harness.request(method, path, body, Origin="https://maple.test")
    assert response.code == status
    assert response.headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert exposed(response) == EXPOSED
    assert response.headers["Vary"] == "Origin"


async def test_C26_429_to_allowed_origin_has_cors_headers(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="2/60")
    await harness.building(websites=["https://maple.test"])
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
    + ["https://evil.test/https://maple.test", "https://maple.test/", "https://MAPLE.test", "*"],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
async def test_C27_unregistered_origin_is_403_and_creates_nothing(
    harness: ServerHarness, origin: str, method: str
) -> None:
    response = await harness.request(method, LEADS, json.dumps(LEAD), Origin=origin)
    assert response.code == 403
    assert json.loads(response.body) == {"error": f"origin {origin} is not registered for any building"}
    assert not [name for name in response.headers if name.lower().startswith("access-control-")]
    assert response.headers["Vary"] == "Origin"
    assert await harness.leads() == []


async def test_C27_request_without_origin_needs_no_cors(harness: ServerHarness) -> None:
    response = await harness.post(LEAD)
    assert response.code == 201
    assert "Access-Control-Allow-Origin" not in response.headers
    assert response.headers["Vary"] == "Origin"


async def test_C25_forwarded_scheme_from_trusted_proxy_counts(
    start_harness: StartHarness,
) -> None:
    harness = await start_harness(trusted_proxies="127.0.0.1")
    asked = {"Host": "leads.box", "Origin": "https://leads.box"}
    assert (await harness.post(LEAD, X_Forwarded_Proto="https", **asked)).code == 201
    assert (await harness.post(LEAD, **asked)).code == 403


async def test_C25_forwarded_scheme_from_untrusted_peer_is_ignored(harness: ServerHarness) -> None:
    asked = {"Host": "leads.box", "Origin": "https://leads.box"}
    assert (await harness.post(LEAD, X_Forwarded_Proto="https", **asked)).code == 403


async def test_C27_an_empty_origin_is_none(harness: ServerHarness) -> None:
    response = await harness.post(LEAD, Origin="")
    assert response.code == 201
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_C25_others_reach_the_server_so_host_proves_nothing(start_harness: StartHarness) -> None:
    harness = await start_harness(host="0.0.0.0")
    harness.url = harness.url.replace("0.0.0.0", "127.0.0.1")
    assert (await harness.post(LEAD, Origin=harness.url)).code == 403
    assert (await harness.post(LEAD, Host="evil.test", Origin="http://evil.test")).code == 403
    await harness.building(websites=["https://maple.test"])
    harness.clock.step(1.1)  # type: ignore[attr-defined]
    assert (await harness.post(LEAD, Origin="https://maple.test")).code == 201


@pytest.mark.parametrize(
    "site", ["https://maple.test", "https://www.maple.test", "https://staging.maple.test"]
)
async def test_C25_each_website_of_a_building_is_allowed(harness: ServerHarness, site: str) -> None:
    urls = ["https://maple.test", "https://www.maple.test/apply", "https://staging.maple.test"]
    await harness.change(lambda: update_building(ACTOR, 1, {}, harness.clock.now(), urls))
    assert (await harness.post(LEAD, Origin=site)).code == 201


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("baggage,content-type,traceparent", ["baggage", "traceparent"]),
        ("x-datadog-trace-id, sentry-trace", ["x-datadog-trace-id", "sentry-trace"]),
        ("accept, idempotency-key", []),
        ("prefer", ["prefer"]),
        ("a" * 1_001, []),
        ("good, b@d, al so\tbad, fine", ["good", "fine"]),
        ("", []),
    ],
)
async def test_C26_preflight_allows_the_headers_it_asks_for(
    harness: ServerHarness, asked: str, allowed: list[str]
) -> None:
    response = await harness.request(
        "OPTIONS",
        LEADS,
        Origin="https://maple.test",
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers=asked,
    )
    names = response.headers["Access-Control-Allow-Headers"].split(", ")
    assert names == ["Content-Type", "Accept", "Idempotency-Key", *allowed]


async def test_C25_malformed_website_does_not_affect_other_buildings(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    oak = await harness.building(token="oak")
    await harness.change(
        lambda: (
            BuildingWebsite.update(url="https://*.x.test").where(BuildingWebsite.building == oak).execute()
        )
    )
    assert (await harness.post(LEAD, Origin="https://maple.test")).code == 201
