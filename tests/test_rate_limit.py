"""The rate limit: the token bucket by itself, and over the socket (C28-C30)."""

import ipaddress
import json

import pytest
from conftest import LEADS, StartHarness, SteppedClock
from hypothesis import given
from hypothesis import strategies as st

from handlers.api.rate_limit import NS, RateLimiter
from handlers.source_address import source_address
from models.setting_values import Rate, parse_networks, parse_rate_exceptions

LEAD = {"tour_request": {"requestor_email": "jane@renter.test"}}
ip = ipaddress.ip_address
rates = st.builds(Rate, st.integers(1, 400), st.integers(1, 4_000))


@given(rates, st.integers(0, 10**18))
def test_C28_full_bucket_allows_exactly_its_capacity(rate: Rate, now: int) -> None:
    limiter = RateLimiter(rate)
    results = [limiter.take(ip("192.0.2.1"), now) for _ in range(rate.requests + 1)]
    assert [result.allowed for result in results] == [True] * rate.requests + [False]
    assert [result.remaining for result in results] == [*range(rate.requests - 1, -1, -1), 0]


@given(rates, st.integers(0, 10**18), st.lists(st.integers(0, 10 * NS), max_size=50))
def test_C29_request_after_retry_after_is_allowed(rate: Rate, now: int, pauses: list[int]) -> None:
    limiter = RateLimiter(rate)
    for pause in pauses:
        now += pause
        limiter.take(ip("192.0.2.1"), now)
    while (result := limiter.take(ip("192.0.2.1"), now)).allowed:
        pass
    assert result.retry_after >= 1
    assert limiter.take(ip("192.0.2.1"), now + result.retry_after * NS).allowed


@given(rates, st.lists(st.integers(0, 20 * NS), max_size=300))
def test_C28_allowed_requests_never_exceed_capacity_plus_refill(rate: Rate, pauses: list[int]) -> None:
    limiter, now, allowed = RateLimiter(rate), 0, 0
    for pause in pauses:
        now += pause
        allowed += limiter.take(ip("192.0.2.1"), now).allowed
    # An interval is rounded down to whole nanoseconds, hence the factor.
    assert allowed <= rate.requests + now * rate.requests * 1.000001 / (rate.seconds * NS)


@given(rates, st.integers(0, 10**18))
def test_C28_bucket_is_full_after_reset_seconds(rate: Rate, now: int) -> None:
    limiter = RateLimiter(rate)
    for _ in range(rate.requests // 2 + 1):
        result = limiter.take(ip("192.0.2.1"), now)
    assert limiter.take(ip("192.0.2.1"), now + result.reset * NS, 0).remaining == rate.requests


def test_C28_ipv6_counts_by_64_and_mapped_as_ipv4() -> None:
    limiter = RateLimiter(Rate(1, 60))
    assert limiter.take(ip("2001:db8:1:2::1"), 0).allowed
    assert not limiter.take(ip("2001:db8:1:2:ffff::9"), 0).allowed
    assert limiter.take(ip("2001:db8:1:3::1"), 0).allowed
    assert source_address("::ffff:192.0.2.7", None, ()) == ip("192.0.2.7")


def test_C30_narrowest_matching_network_sets_the_limit() -> None:
    limits = parse_rate_exceptions("10.0.0.0/8=3/60, 10.1.2.3=2/60, 2001:db8::/32=4/60")
    limiter = RateLimiter(Rate(1, 60), limits)
    for address, limit in (("10.9.9.9", 3), ("10.1.2.3", 2), ("192.0.2.1", 1), ("2001:db8::1", 4)):
        assert limiter.take(ip(address), 0).limit == limit


def test_C28_full_buckets_are_not_kept() -> None:
    limiter = RateLimiter(Rate(300, 300), max_buckets=100)
    for number in range(10_000):
        limiter.take(ip(number), number * NS // 10)
    assert len(limiter) <= 100


def test_C28_many_addresses_do_not_evict_an_empty_bucket() -> None:
    limiter = RateLimiter(Rate(5, 300), max_buckets=100)
    while limiter.take(ip("192.0.2.1"), 0).allowed:
        pass
    for number in range(10_000):
        limiter.take(ip(number), 1)
    assert len(limiter) <= 100
    assert not limiter.take(ip("192.0.2.1"), 2).allowed


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),  # the peer is no trusted proxy
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.2.3.4, 203.0.113.9", "203.0.113.9"),  # a client can write any left-most entry
        ("10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "203.0.113.9, nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", '"[2001:db8::1]:80"', "2001:db8::1"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "203.0.113.9", "fe80::1"),
        ("not an address", None, "0.0.0.0"),
        ("10.0.0.1", "1.2.3.4, " * 9_000 + "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9" + ", 10.0.0.2" * 9_000, "10.0.0.2"),  # no one has so many proxies
    ],
)
def test_C30_source_is_the_peer_or_forwarded_by_trusted_proxies(
    peer: str, forwarded: str | None, source: str
) -> None:
    assert source_address(peer, forwarded, parse_networks("10.0.0.0/8")) == ip(source)


@pytest.mark.parametrize("proxies", ["::ffff:127.0.0.1", "::ffff:127.0.0.0/104", "10.0.0.1, ::ffff:7f00:1"])
async def test_C30_proxy_given_as_ipv4_mapped_is_trusted(start_harness: StartHarness, proxies: str) -> None:
    limits = "::ffff:203.0.113.0/120=7/60"
    harness = await start_harness(trusted_proxies=proxies, rate_limit_exceptions=limits)
    response = await harness.post(LEAD, X_Forwarded_For="203.0.113.9")
    assert response.headers["RateLimit-Limit"] == "7"


async def test_C28_default_limit_counts_every_request(
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
    await harness.building(websites=["https://maple.test"])
    for _ in range(10):
        preflight = await harness.request("OPTIONS", LEADS, Origin="https://maple.test")
        assert (preflight.code, preflight.headers["RateLimit-Remaining"]) == (204, "3")
    refused = [await harness.request("OPTIONS", LEADS, Origin="https://evil.test") for _ in range(4)]
    assert [r.code for r in refused] == [403, 403, 403, 429]
    assert (await harness.request("OPTIONS", LEADS, Origin="https://maple.test")).code == 204


async def test_C28_requests_outside_api_do_not_count(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="1/60")
    for _ in range(3):
        assert (await harness.request("GET", "/livez")).code == 200
    assert (await harness.post(LEAD)).code == 201


async def test_C29_throttled_request_reads_neither_body_nor_database(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = await start_harness(rate_limit="1/60")
    await harness.post(LEAD)

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("not to be called")

    monkeypatch.setattr("handlers.api.leads.decode_body", never)
    monkeypatch.setattr(harness.server.storage, "write", never)
    monkeypatch.setattr(harness.server.storage, "read", never)
    for origin in ({}, {"Origin": "https://never.seen.test"}):
        assert (await harness.request("POST", LEADS, "{broken", **origin)).code == 429


async def test_C30_x_real_ip_is_ignored_and_forwarded_for_needs_proxy(
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
