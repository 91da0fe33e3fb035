"""The name that a client gives in EHLO or HELO."""

import asyncio
import functools
import ipaddress
import socket

from models.setting_values import SmtpServer


async def helo_name(server: SmtpServer, own_address: str) -> str:
    """Return the name for EHLO: many servers refuse one without a dot, such as a container's id.

    own_address: of this end of the connection.
    """
    if server.helo:
        return server.helo
    host = await asyncio.to_thread(_host_name)
    for name in (host, server.domain):
        if "." in name and not name.endswith((".localdomain", ".local", ".internal")) and name.isascii():
            return name
    address = ipaddress.ip_address(own_address.partition("%")[0])
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


@functools.lru_cache(1)  # the look-up may take seconds
def _host_name() -> str:
    return socket.getfqdn()
