"""The address that a request comes from (C30), and what it counts as."""

import functools
import ipaddress
from collections.abc import Sequence

from models.setting_values import Network, parse_networks

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_FORWARDED = 32  # entries of X-Forwarded-For that are read, from the right; few proxies stand in a row
# Of this machine and of private networks: a proxy may stand there.
LOCAL_NETWORKS = parse_networks(
    "127.0.0.0/8, 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16, 100.64.0.0/10, "
    "::1, fc00::/7, fe80::/10"
)


def source_address(peer: str, forwarded_for: str | None, trusted_proxies: Sequence[Network]) -> Address:
    """Return the address that a request comes from (C30).

    It is the peer, unless that is a trusted proxy. `X-Forwarded-For` is read from the right, as long as the
    writer of an entry is a trusted proxy. An unreadable peer is 0.0.0.0.
    """
    source = peer_address(peer)
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
    return bool(trusted_proxies) and _is_in(peer_address(peer), trusted_proxies)


@functools.lru_cache(1_024)  # most requests share their peer with an earlier one
def peer_address(peer: str) -> Address:
    """Return the address of a socket's peer; 0.0.0.0 if it has none."""
    return _parse(peer) or ipaddress.IPv4Address(0)


def is_local(address: Address) -> bool:
    """Return True for an address of this machine or of a private network: a proxy may stand there."""
    return _is_in(address, LOCAL_NETWORKS)


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


def network_key(address: Address) -> bytes:
    """Return the bytes of an IPv4 address, or of the /64 of an IPv6 address (C28)."""
    # Providers give a household or a phone a whole /64.
    return address.packed if address.version == 4 else address.packed[:8]
