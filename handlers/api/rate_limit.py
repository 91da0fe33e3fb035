"""The rate limit: a token bucket for each source address (C28), and the source address itself (C30)."""

import functools
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from models.setting_values import Network, Rate

NS = 1_000_000_000
MAX_BUCKETS = 65_536
MAX_FORWARDED = 32  # entries of X-Forwarded-For that are read, from the right; few proxies stand in a row

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class RateLimitResult:
    """State of a bucket after one request. Times are whole seconds, rounded up."""

    allowed: bool
    limit: int  # the bucket's capacity
    remaining: int  # tokens in the bucket
    reset: int  # until the bucket is full
    retry_after: int  # until the bucket has a token; 0 if it has one


class RateLimiter:
    """Token buckets by source address, with the time passed in.

    A bucket is one number: the instant at which it will be full. Each token taken moves that instant on by
    one interval. A bucket is empty when the instant is as far away as filling a whole bucket takes. Full
    buckets are not kept.
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
        """Take tokens from an address's bucket if it has them. 0 takes none; -1 returns one.

        An IPv6 address shares the bucket of its /64 (C28). now_ns: monotonic time.
        """
        key, rate = _key(address), self._rate_of(address)
        interval = rate.seconds * NS // rate.requests  # in which one token is added
        window = interval * rate.requests  # in which an empty bucket fills
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
            self._evict(now_ns)
        self._full_at[key] = full_at

    def _evict(self, now_ns: int) -> None:
        # Full buckets first, which changes no result. Then the fullest half: if the emptiest were evicted, an
        # address over its limit could free itself by sending from many others.
        self._full_at = {key: at for key, at in self._full_at.items() if at > now_ns}
        if len(self._full_at) > self._max_buckets // 2:
            by_emptiness = sorted(self._full_at.items(), key=itemgetter(1))
            self._full_at = dict(by_emptiness[-self._max_buckets // 2 :])

    def refill(self) -> None:
        """Fill every bucket."""
        self._full_at.clear()

    def __len__(self) -> int:
        """Return how many buckets are kept."""
        return len(self._full_at)

    def has_own_rate(self, address: Address) -> bool:
        """Return True if an operator gave this address a rate of its own: many clients may share it."""
        return any(address in network for network, _ in self._exceptions)

    def _rate_of(self, address: Address) -> Rate:
        for network, rate in self._exceptions:
            if address in network:
                return rate
        return self._rate


def source_address(peer: str, forwarded_for: str | None, trusted_proxies: Sequence[Network]) -> Address:
    """Return the address that a request comes from (C30).

    It is the peer, unless that is a trusted proxy. `X-Forwarded-For` is read from the right, as long as the
    writer of an entry is a trusted proxy. An unreadable peer is 0.0.0.0.
    """
    source = _peer_address(peer)
    if forwarded_for is None:
        return source
    for entry in reversed(forwarded_for.rsplit(",", MAX_FORWARDED)):  # the rest, in one piece, is no address
        if not _is_in(source, trusted_proxies):
            break
        address = _parse(entry)
        if address is None:
            break
        source = address
    return source


def source_network(address: Address) -> str:
    """Return the source as text: an IPv4 address, or the /64 of an IPv6 address (C28)."""
    return (
        str(address)
        if address.version == 4
        else str(ipaddress.ip_network((address.packed[:8] + bytes(8), 64)))
    )


def is_proxy(peer: str, trusted_proxies: Sequence[Network]) -> bool:
    """Return True if the peer is a trusted proxy."""
    return bool(trusted_proxies) and _is_in(_peer_address(peer), trusted_proxies)


@functools.lru_cache(1_024)  # most requests share their peer with an earlier one
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
    # Providers give a household or a phone a whole /64 (C28).
    return address.packed if address.version == 4 else address.packed[:8]


def _whole_seconds(ns: int) -> int:
    return -(-ns // NS)
