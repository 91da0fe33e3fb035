"""Owns the rate limit: a token bucket for each source address, with the time passed in."""

import functools
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from models.settings import Network, Rate

NS = 1_000_000_000
MAX_BUCKETS = 65_536

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class RateLimitResult:
    """What the bucket says of one request. Times are whole seconds, rounded up."""

    allowed: bool
    limit: int
    remaining: int  # requests that could come at once now
    reset: int  # until the bucket is full again
    retry_after: int  # until one more request gets through; 0 if one would now


class RateLimiter:
    """The buckets. One is a single number, the instant at which it will be full again: each request moves
    that instant one interval on, and it must not lie further away than a whole bucket takes to fill.
    A bucket that is full is the same as none, so none is kept.
    """

    def __init__(
        self,
        rate: Rate,
        exceptions: Sequence[tuple[Network, Rate]] = (),
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self._rate = rate
        self._exceptions = exceptions  # the narrowest network first
        self._max_buckets = max_buckets
        self._full_at: dict[bytes, int] = {}

    def take(self, address: Address, now_ns: int, tokens: int = 1) -> RateLimitResult:
        """Take tokens for a request from this address, if they are there; 0 only looks, -1 gives one back."""
        key, rate = _key(address), self._rate_of(address)
        interval = rate.seconds * NS // rate.requests  # until one more token
        window = interval * rate.requests  # until an empty bucket is full
        before = max(self._full_at.get(key, now_ns), now_ns)
        after = max(before + tokens * interval, now_ns)
        allowed = after - now_ns <= window
        if not allowed:
            after = before
        elif tokens:
            self._keep(key, after, now_ns)
        free = window - (after - now_ns)
        return RateLimitResult(
            allowed=allowed,
            limit=rate.requests,
            remaining=free // interval,
            reset=_whole_seconds(after - now_ns),
            retry_after=_whole_seconds(max(0, interval - free)),
        )

    def _keep(self, key: bytes, full_at: int, now_ns: int) -> None:
        if full_at <= now_ns:
            self._full_at.pop(key, None)
            return
        if len(self._full_at) >= self._max_buckets and key not in self._full_at:
            self._forget(now_ns)
        self._full_at[key] = full_at

    def _forget(self, now_ns: int) -> None:
        # The full ones first, which costs nobody anything; then those nearest to full, never the emptiest:
        # an address that is over its limit must not get out of it by a crowd of others.
        self._full_at = {key: at for key, at in self._full_at.items() if at > now_ns}
        if len(self._full_at) > self._max_buckets // 2:
            by_emptiness = sorted(self._full_at.items(), key=itemgetter(1))
            self._full_at = dict(by_emptiness[-self._max_buckets // 2 :])

    def refill(self) -> None:
        """Fill every bucket."""
        self._full_at.clear()

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._full_at)

    def _rate_of(self, address: Address) -> Rate:
        for network, rate in self._exceptions:
            if address in network:
                return rate
        return self._rate


def source_address(peer: str, forwarded_for: str | None, trusted_proxies: Sequence[Network]) -> Address:
    """Where a request comes from (C30): the peer, or what trusted proxies say of it.

    `X-Forwarded-For` is read from the right, for as long as the one who wrote an entry is trusted.
    """
    source = _peer_address(peer)
    if forwarded_for is None:
        return source
    for entry in reversed(forwarded_for.split(",")):
        if not _is_in(source, trusted_proxies):
            break
        address = _parse(entry)
        if address is None:
            break
        source = address
    return source


def is_proxy(peer: str, trusted_proxies: Sequence[Network]) -> bool:
    """True if the peer is a trusted proxy."""
    return bool(trusted_proxies) and _is_in(_peer_address(peer), trusted_proxies)


@functools.lru_cache(1_024)  # most requests come by a connection that others came by, or from a proxy
def _peer_address(peer: str) -> Address:
    return _parse(peer) or ipaddress.IPv4Address(0)


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _parse(text: str) -> Address | None:
    text = text.strip().strip('"')
    if text.startswith("["):  # [2001:db8::1]:443
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 192.0.2.1:443
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _key(address: Address) -> bytes:
    # A /64 is what one household or phone is given, so it counts as one (C28).
    return address.packed if address.version == 4 else address.packed[:8]


def _whole_seconds(ns: int) -> int:
    return -(-ns // NS)
