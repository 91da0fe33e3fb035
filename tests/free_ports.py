"""Ports of 127.0.0.1 for servers that can't choose one themselves."""

import random
import socket
from contextlib import suppress


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on, below those that Linux gives to other programs meanwhile."""
    free: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 10 * count):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            free.append(port)
    return free[:count]
