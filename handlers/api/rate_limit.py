"""The rate limit: a token bucket for each source address (C28)."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from handlers.source_address import Address, network_key
from models.setting_values import Network, Rate

NS = 1_000_000_000
MAX_BUCKETS = 65_536


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

    def multiplied(self, factor: int) -> "RateLimiter":
        """Return a limiter with buckets of its own, and this factor times the rates."""
        rate, *others = (
            Rate(factor * rate.requests, rate.seconds)
            for rate in (self._rate, *(rate for _, rate in self._exceptions))
        )
        networks = (network for network, _ in self._exceptions)
        return RateLimiter(rate, list(zip(networks, others, strict=True)), self._max_buckets)

    def take(self, address: Address, now_ns: int, tokens: int = 1) -> RateLimitResult:
        """Take tokens from an address's bucket if it has them. 0 takes none; -1 returns one.

        An IPv6 address shares the bucket of its /64 (C28). now_ns: monotonic time.
        """
        key, rate = network_key(address), self._rate_of(address)
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


def _whole_seconds(ns: int) -> int:
    return -(-ns // NS)
