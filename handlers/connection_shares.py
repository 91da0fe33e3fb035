"""Shares of the connections: one address may hold a bounded number of them (C30)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from handlers.api.rate_limit import RateLimiter
from handlers.source_address import Address, is_local, is_proxy, network_key, peer_address
from models.setting_values import Network

MAX_SHARE = 32  # connections of one address; a browser opens six


class Connection(Protocol):
    """A client's connection. holder: the address that it counts for; None before and after.

    is_proxy: the peer is a trusted proxy.
    """

    holder: "Holder | None"
    is_proxy: bool


@dataclass(slots=True, eq=False)
class Holder:
    """An address with the number of its open connections. share: the most that it may have; None: any.

    idle: those that wait for the head of a request, with the instant since when; the longest first.
    """

    key: bytes
    share: int | None
    connections: int = 0
    idle: dict[Connection, float] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """True if it may have no more connections."""
        return self.share is not None and self.connections >= self.share

    def oldest_idle(self, before: float) -> Connection | None:
        """Return the connection that has been idle longest; None if none has since before this instant."""
        for connection, since in self.idle.items():
            return connection if since <= before else None
        return None


class ConnectionShares:
    """Counts of the open connections by address, or by the /64 of an IPv6 address.

    A trusted proxy's connection counts for the address that its current request comes from, and between two
    requests for nobody. Many clients may share a local address, and one with a rate of its own, so these may
    hold any number.
    """

    def __init__(
        self, max_connections: int, limiter: RateLimiter, trusted_proxies: Sequence[Network]
    ) -> None:
        """max_connections: of all addresses together."""
        self._max_connections = max_connections
        self._share = max(1, min(MAX_SHARE, max_connections // 8))
        self._limiter = limiter
        self._trusted_proxies = trusted_proxies
        self._nobody = Holder(b"", None)
        self._holders = {b"": self._nobody}
        self.total = 0  # open connections

    @property
    def is_full(self) -> bool:
        """True if there is no room for another connection."""
        return self.total >= self._max_connections

    def holder_of_peer(self, peer: str) -> Holder:
        """Return the holder of a new connection from this peer."""
        if is_proxy(peer, self._trusted_proxies):
            return self._nobody
        return self._holder_of(peer_address(peer))

    def _holder_of(self, address: Address) -> Holder:
        key = network_key(address)
        holder = self._holders.get(key)
        if holder is None:
            is_shared = is_local(address) or self._limiter.has_own_rate(address)
            holder = Holder(key, None if is_shared else self._share)
        return holder

    def add(self, connection: Connection, holder: Holder) -> None:
        """Count a new connection."""
        connection.is_proxy = holder is self._nobody
        self.total += 1
        self._enter(connection, holder)

    def remove(self, connection: Connection) -> None:
        """Count a connection no longer. Does nothing if that has been done."""
        if connection.holder is not None:
            self.total -= 1
            self._leave(connection, connection.holder)
            connection.holder = None

    def wait(self, connection: Connection, now: float) -> None:
        """Count a connection as idle from now on; a proxy's for nobody."""
        holder = connection.holder
        if connection.is_proxy and holder is not None and holder is not self._nobody:
            self._leave(connection, holder)
            self._enter(connection, self._nobody)
        if connection.holder is not None:
            connection.holder.idle[connection] = now

    def begin(self, connection: Connection) -> None:
        """Count a connection as busy: the head of a request has arrived."""
        if connection.holder is not None:
            connection.holder.idle.pop(connection, None)

    def claim(self, connection: Connection, address: Address) -> bool:
        """Count a proxy's connection for the address that its request comes from.

        Return False if the address holds its share already.
        """
        if not connection.is_proxy or connection.holder is not self._nobody:
            return True
        holder = self._holder_of(address)
        if holder.is_full:
            return False
        self._leave(connection, self._nobody)
        self._enter(connection, holder)
        return True

    def _enter(self, connection: Connection, holder: Holder) -> None:
        self._holders[holder.key] = holder
        holder.connections += 1
        connection.holder = holder

    def _leave(self, connection: Connection, holder: Holder) -> None:
        holder.idle.pop(connection, None)
        holder.connections -= 1
        if not holder.connections and holder is not self._nobody:
            del self._holders[holder.key]

    def biggest_holder(self) -> Holder:
        """Return the holder of the most connections."""
        return max(self._holders.values(), key=lambda holder: holder.connections)
