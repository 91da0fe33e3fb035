"""Undeclared proxies: local peers that forward requests, and are no trusted proxies (C30)."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence

from handlers.source_address import is_local, is_proxy, peer_address
from models.clock import Clock
from models.daily_count import undeclared_proxy_count
from models.setting_values import Network

log = logging.getLogger("leads.http")

MAX_PEERS = 16  # that are remembered; a network may have any number of them
HOUR_NS = 3_600 * 1_000_000_000


class UndeclaredProxies:
    """Logs and counts each undeclared proxy, at most once an hour.

    The headers of a public peer are anybody's text, so they are ignored.
    """

    def __init__(self, trusted: Sequence[Network], count_today: Callable[[str], None], clock: Clock) -> None:
        """trusted: the proxies that are declared. count_today: count an event of this name."""
        self._trusted = trusted
        self._count_today = count_today
        self._clock = clock
        self._logged: dict[str, int] = {}  # when, by the peer's address
        self._counted: dict[str, int] = {}
        self._undeclared = functools.lru_cache(1_024)(self._local_untrusted)

    def note(self, peer: str, headers: Mapping[str, str], *, may_write: bool) -> None:
        """Note the peer of a request if it is an undeclared proxy.

        may_write: False for a request over its limit, which costs the database nothing (C29). The next
        request of the peer is counted then.
        """
        if not ("X-Forwarded-For" in headers or "Forwarded" in headers or "X-Real-Ip" in headers):
            return
        address = self._undeclared(peer)
        if address is None:
            return
        now_ns = self._clock.monotonic_ns()
        if _is_due(self._logged, address, now_ns):
            # To add the address to those that are declared already, all of them are to be written.
            value = ",".join([*map(str, self._trusted), address])
            log.warning(
                "a proxy that is not declared forwards requests: all of its clients share one rate limit",
                extra={"peer": address, "if_it_is_yours_set": f"LEADS_TRUSTED_PROXIES={value}"},
            )
        if may_write and _is_due(self._counted, address, now_ns):
            self._count_today(undeclared_proxy_count(address))

    def _local_untrusted(self, peer: str) -> str | None:
        """Return the peer's address if it is a local one, and no trusted proxy."""
        address = peer_address(peer)
        return str(address) if is_local(address) and not is_proxy(peer, self._trusted) else None


def _is_due(noted: dict[str, int], address: str, now_ns: int) -> bool:
    """Return True, and note the instant, if the address was not noted within the hour, and has a place."""
    noted_at = noted.get(address)
    if noted_at is not None and now_ns - noted_at < HOUR_NS:
        return False
    if noted_at is None and len(noted) >= MAX_PEERS:
        for other in [other for other, at in noted.items() if now_ns - at >= 24 * HOUR_NS]:
            del noted[other]
        if len(noted) >= MAX_PEERS:
            return False
    noted[address] = now_ns
    return True
