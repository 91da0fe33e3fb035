"""The rate limit: the bucket by itself, and over the socket."""

import ipaddress
import json

import pytest
from conftest import LEADS, StartHarness, SteppedClock
from hypothesis import given
from hypothesis import strategies as st

from handlers.api.rate_limit import NS, RateLimiter, source_address
from models.settings import Rate, parse_networks, parse_rate_exceptions

LEAD = {"tour_request": {"requestor_email": "jane@renter.test"}}
ip = ipaddress.ip_address
rates = st.builds(Rate, st.integers(1, 400), st.integers(1, 4_000))


@given(rates, st.integers(0, 10**18))
def test_C28_a_full_bucket_holds_its_capacity_and_not_one_more(rate: Rate, now: int) -> None:
    throttle = RateLimiter(rate)
    verdicts = [throttle.take(ip("192.0.2.1"), now) for _ in range(rate.requests + 1)]
    assert [v.allowed for v in verdicts] == [True] * rate.requests + [False]
    assert [v.remaining for v in verdicts] == [*range(rate.requests - 1, -1, -1), 0]


@given(rates, st.integers(0, 10**18), st.lists(st.integers(0, 10 * NS), max_size=50))
def test_C29_a_client_that_waits_as_told_gets_through(rate: Rate, now: int, pauses: list[int]) -> None:
    throttle = RateLimiter(rate)
    for pause in pauses:
        now += pause
        throttle.take(ip("192.0.2.1"), now)
    while (result := throttle.take(ip("192.0.2.1"), now)).allowed:
        pass
    assert result.retry_after >= 1
    assert throttle.take(ip("192.0.2.1"), now + result.retry_after * NS).allowed


@given(rates, st.lists(st.integers(0, 20 * NS), max_size=300))
def test_C28_no_more_get_through_than_the_capacity_and_what_was_refilled(
    rate: Rate, pauses: list[int]
) -> None:
    throttle, now, allowed = RateLimiter(rate), 0, 0
    for pause in pauses:
        now += pause
        allowed += throttle.take(ip("192.0.2.1"), now).allowed
    # An interval is cut to whole nanoseconds, hence the one in a million.
    assert allowed <= rate.requests + now * rate.requests * 1.000001 / (rate.seconds * NS)


@given(rates, st.integers(0, 10**18))
def test_C28_after_reset_seconds_the_bucket_is_full_again(rate: Rate, now: int) -> None:
    throttle = RateLimiter(rate)
    for _ in range(rate.requests // 2 + 1):
        result = throttle.take(ip("192.0.2.1"), now)
    assert throttle.take(ip("192.0.2.1"), now + result.reset * NS, 0).remaining == rate.requests


def test_C28_ipv6_counts_by_64_and_a_mapped_address_is_its_ipv4() -> None:
    throttle = RateLimiter(Rate(1, 60))
    assert throttle.take(ip("2001:db8:1:2::1"), 0).allowed
    assert not throttle.take(ip("2001:db8:1:2:ffff::9"), 0).allowed
    assert throttle.take(ip("2001:db8:1:3::1"), 0).allowed
    assert source_address("::ffff:192.0.2.7", None, ()) == ip("192.0.2.7")


def test_C30_an_address_or_network_can_have_its_own_limit_and_the_narrowest_counts() -> None:
    limits = parse_rate_exceptions("10.0.0.0/8=3/60, 10.1.2.3=2/60, 2001:db8::/32=4/60")
    throttle = RateLimiter(Rate(1, 60), limits)
    for address, limit in (("10.9.9.9", 3), ("10.1.2.3", 2), ("192.0.2.1", 1), ("2001:db8::1", 4)):
        assert throttle.take(ip(address), 0).limit == limit


def test_a_full_bucket_is_not_kept() -> None:
    throttle = RateLimiter(Rate(300, 300), max_buckets=100)
    for number in range(10_000):
        throttle.take(ip(number), number * NS // 10)
    assert len(throttle) <= 100


def test_a_crowd_of_addresses_does_not_free_one_that_is_over_its_limit() -> None:
    throttle = RateLimiter(Rate(5, 300), max_buckets=100)
    while throttle.take(ip("192.0.2.1"), 0).allowed:
        pass
    for number in range(10_000):
        throttle.take(ip(number), 1)
    assert len(throttle) <= 100
    assert not throttle.take(ip("192.0.2.1"), 2).allowed


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),  # the peer is no proxy of ours
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.2.3.4, 203.0.113.9", "203.0.113.9"),  # the left-most is whatever a client wrote
        ("10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "203.0.113.9, nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", '"[2001:db8::1]:80"', "2001:db8::1"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "203.0.113.9", "fe80::1"),
        ("not an address", None, "0.0.0.0"),
    ],
)
def test_C30_the_source_is_the_peer_or_what_trusted_proxies_say(
    peer: str, forwarded: str | None, source: str
) -> None:
    assert source_address(peer, forwarded, parse_networks("10.0.0.0/8")) == ip(source)


async def test_C28_the_limit_is_300_in_5_minutes_and_every_request_counts(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await start_harness()
    kinds = [
        ("POST", LEADS, "{"),
        ("GET", "/api/none", None),
        ("PUT", LEADS, "{}"),
        ("POST", LEADS, "x" * 70_000),
    ]
    for number in range(300):
        method, path, body = kinds[number % len(kinds)]
        response = await harness.request(method, path, body)
        assert response.headers["RateLimit-Remaining"] == str(299 - number)
    response = await harness.post(LEAD)
    assert response.code == 429
    assert response.body == (
        b'{"error": {"message": "throttled", "human_message": "Too many requests. Please try again later."}}'
    )
    assert response.headers["Retry-After"] == "1"
    assert response.headers["RateLimit-Limit"] == "300"
    assert response.headers["RateLimit-Remaining"] == "0"
    assert response.headers["RateLimit-Reset"] == "300"
    clock.step(1)
    assert (await harness.post(LEAD)).code == 201
    assert (await harness.post(LEAD)).code == 429


async def test_C28_answered_preflights_do_not_count(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="3/60")
    await harness.building(website_url="https://maple.test")
    for _ in range(10):
        preflight = await harness.request("OPTIONS", LEADS, Origin="https://maple.test")
        assert (preflight.code, preflight.headers["RateLimit-Remaining"]) == (204, "3")
    refused = [await harness.request("OPTIONS", LEADS, Origin="https://evil.test") for _ in range(4)]
    assert [r.code for r in refused] == [403, 403, 403, 429]
    assert (await harness.request("OPTIONS", LEADS, Origin="https://maple.test")).code == 204


async def test_C28_what_is_not_under_api_does_not_count(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="1/60")
    for _ in range(3):
        assert (await harness.request("GET", "/livez")).code == 200
    assert (await harness.post(LEAD)).code == 201


async def test_C29_over_the_limit_the_body_is_not_parsed_and_the_database_not_asked(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = await start_harness(rate_limit="1/60")
    await harness.post(LEAD)

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("this was not to happen")

    monkeypatch.setattr("handlers.api.leads.decode_body", never)
    monkeypatch.setattr(harness.server.storage, "write", never)
    monkeypatch.setattr(harness.server.storage, "read", never)
    for origin in ({}, {"Origin": "https://never.seen.test"}):
        assert (await harness.request("POST", LEADS, "{broken", **origin)).code == 429


async def test_C30_x_real_ip_is_never_believed_and_forwarded_for_only_of_a_proxy(
    start_harness: StartHarness,
) -> None:
    harness = await start_harness(rate_limit="1/60")
    assert (await harness.post(LEAD, X_Real_Ip="203.0.113.1")).code == 201
    assert (await harness.post(LEAD, X_Real_Ip="203.0.113.2", X_Forwarded_For="203.0.113.3")).code == 429
    await harness.restart(rate_limit="1/60", trusted_proxies="127.0.0.0/8")
    for last in range(3):
        assert (await harness.post(LEAD, X_Forwarded_For=f"203.0.113.{last}")).code == 201
    assert (await harness.post(LEAD, X_Forwarded_For="9.9.9.9, 203.0.113.1")).code == 429
    assert json.loads((await harness.post(LEAD, X_Forwarded_For="203.0.113.1")).body)["error"]["message"]
