"""TCP connections to a mail server that has several addresses (RFC 8305, Happy Eyeballs)."""

import asyncio
import socket

from aiohappyeyeballs import start_connection

ATTEMPT_SECONDS = 0.25  # before the next address is tried as well


async def connect(host: str, port: int) -> socket.socket:
    """Return a socket that is connected to the first address of the host to accept.

    The addresses are tried in the system's order, IPv6 and IPv4 in turn, so that one that swallows packets
    costs only a moment. Raises OSError, and ValueError for a host name like 'a..b'.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found:
        raise OSError("the host has no address")
    return await start_connection(found, happy_eyeballs_delay=ATTEMPT_SECONDS, interleave=1)
