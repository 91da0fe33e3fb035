"""Owns the connections of clients: how many there may be, and what happens when there is no room for more."""

import asyncio
import logging
import resource
import socket
from collections.abc import Iterable
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

log = logging.getLogger("leads.http")

MOST_CONNECTIONS = 10_000
BACKLOG = 1_024  # connections that wait in the queue; one too many tries again only after a second
KEPT_FREE = 64  # descriptors for the database, the mail server, the partner, a backup
ACCEPTED_AT_ONCE = 128  # then whoever else waits for the loop has a turn
LOOK_AGAIN_SECONDS = 1.0


def room_for_connections() -> int:
    """Have the system let this process open all that it may; how many clients there is room for then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError):  # macOS says 'unlimited' and takes less
        pass
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, soft - KEPT_FREE))


class ConnectionServer(HTTPServer):
    """An HTTP server that takes so many connections at once; the others wait in the system's queue.

    Tornado's own, once it has no descriptor left, asks for the next connection again and again and does
    nothing else.
    """

    def initialize(self, *args: Any, most_connections: int = MOST_CONNECTIONS, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._most_connections = most_connections
        self._listeners: list[socket.socket] = []
        self._accepting = False
        self._told_at = -LOOK_AGAIN_SECONDS

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these listening sockets; call it on the loop."""
        self._loop = asyncio.get_running_loop()
        self._listeners += sockets
        self._resume()

    def stop(self) -> None:
        """Accept no more; what was accepted goes on."""
        self._pause()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        super().stop()

    def on_close(self, server_conn: object) -> None:
        """Tornado calls this when a connection has ended."""
        super().on_close(server_conn)
        self._resume()

    def _resume(self) -> None:
        if not self._accepting:
            self._accepting = True
            for listener in self._listeners:
                self._loop.add_reader(listener, self._accept, listener)

    def _pause(self) -> None:
        self._accepting = False
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if len(self._connections) >= self._most_connections:
                self._tell("there are as many as there is room for")
                return self._pause()  # until one of them ends
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return None
            except OSError as error:
                self._tell(error.strerror or "")
                self._loop.call_later(LOOK_AGAIN_SECONDS, self._resume)
                return self._pause()
            self.handle_stream(IOStream(connection, max_buffer_size=self.max_buffer_size), address)
        return None

    def _tell(self, reason: str) -> None:
        now = self._loop.time()
        if now - self._told_at >= LOOK_AGAIN_SECONDS:
            self._told_at = now
            facts = {"reason": reason, "connections": len(self._connections)}
            log.warning("no more connections are taken for now", extra=facts)
