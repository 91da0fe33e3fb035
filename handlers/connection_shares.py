"""Shares of the connections: one address may hold a bounded number of them (C30)."""

from collections.abc import Sequence

from handlers.api.rate_limit import RateLimiter
from handlers.client_stream import ClientStream, Holder
from handlers.source_address import Address, is_local, is_proxy, network_key, peer_address
from models.setting_values import Network

MAX_SHARE = 64  # connections of one address; a browser opens six


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
        is_proxy_of_ours = is_proxy(peer, self._trusted_proxies)
        return self._nobody if is_proxy_of_ours else self.holder_of(peer_address(peer))

    def holder_of(self, address: Address | None) -> Holder:
        """Return the holder that this address is; None: nobody."""
        if address is None:
            return self._nobody
        key = network_key(address)
        holder = self._holders.get(key)
        if holder is None:
            is_shared = is_local(address) or self._limiter.has_own_rate(address)
            holder = Holder(key, None if is_shared else self._share)
        return holder

    def add(self, stream: ClientStream, holder: Holder) -> None:
        """Count a new connection."""
        stream.holder = holder
        stream.is_proxy = holder is self._nobody
        self.total += 1
        self._count(holder, 1)

    def move(self, stream: ClientStream, holder: Holder) -> None:
        """Count a connection for this holder from now on."""
        if stream.holder is not None:
            self._count(stream.holder, -1)
            stream.holder = holder
            self._count(holder, 1)

    def remove(self, stream: ClientStream) -> None:
        """Count a connection no longer. Does nothing if that has been done."""
        if stream.holder is not None:
            self.total -= 1
            self._count(stream.holder, -1)
            stream.holder = None

    def _count(self, holder: Holder, change: int) -> None:
        holder.connections += change
        self._holders[holder.key] = holder
        if not holder.connections and holder is not self._nobody:
            del self._holders[holder.key]

    def biggest_holder(self) -> Holder:
        """Return the holder of the most connections."""
        return max(self._holders.values(), key=lambda holder: holder.connections)
