"""The HTTP server, with limits on its clients: connections at once, and time for each request."""

import asyncio
import logging
import resource
import socket
from collections.abc import Awaitable, Iterable
from typing import Any, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.netutil import bind_sockets

from handlers.client_stream import ClientStream
from handlers.connection_shares import ConnectionShares, Holder
from handlers.http_connection import LimitedConnection
from models.settings import SettingError

log = logging.getLogger("leads.http")

MAX_CONNECTIONS = 4_000
BACKLOG = 1_024  # connections in the system's queue; a client beyond them retries only after a second
RESERVED_DESCRIPTORS = 64  # for the database, the mail server, the partner, a backup
MAX_ACCEPTED_AT_ONCE = 128  # before other events of the loop are handled
RETRY_ACCEPT_SECONDS = 1.0
EVICTED_AFTER_SECONDS = 0.5  # without a request; a client sends its request at once when it has connected
# Longer than a client takes to send its next request once it has its answer.
SINGLE_CLIENT_SECONDS = 0.02


def max_connections_allowed() -> int:
    """Raise the limit of open files as far as the system allows; return how many connections fit below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError):  # macOS reports 'unlimited', and then refuses it
        pass
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, soft - RESERVED_DESCRIPTORS))


class LimitedHTTPServer(HTTPServer):
    """HTTP server with a bounded number of connections.

    A further one takes the place of the longest idle one of the address that holds the most. If none has been
    idle long enough, it waits in the system's queue. Without a limit
    Tornado runs out of file descriptors, and then only repeats the failing accept.
    """

    def initialize(  # type: ignore[override]
        self,
        *args: Any,
        shares: ConnectionShares,
        timeout_seconds: float,
        **kwargs: Any,
    ) -> None:
        """timeout_seconds: for a request's headers, again for its body, and again to read an answer."""
        super().initialize(*args, **kwargs)
        self.conn_params.header_timeout = None  # `_close_timed_out` does this
        self._shares = shares
        self._timeout = timeout_seconds
        # The earliest deadline first, because every timeout is equally long.
        self._deadlines: dict[ClientStream, float] = {}
        self._latest: ClientStream | None = None  # the connection of the latest request
        self._latest_at = self._other_latest_at = -SINGLE_CLIENT_SECONDS
        self._listeners: list[socket.socket] = []
        self._accepting = False
        self._warned_at = -RETRY_ACCEPT_SECONDS

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these listening sockets. To be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._listeners += sockets
        self._resume()
        self._close_timed_out()

    def stop(self) -> None:
        """Accept the connections in the system's queue, and no more. Requests are still served."""
        self._pause()
        for listener in self._listeners:
            # The system resets the connections that are in its queue when the socket is closed.
            for _ in range(BACKLOG // MAX_ACCEPTED_AT_ONCE):
                self._accept(listener)
            listener.close()
        self._listeners.clear()
        super().stop()

    async def close_all_connections(self) -> None:
        """Close the open connections, each after its current request."""
        self._timer.cancel()
        await super().close_all_connections()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Return the delegate of a connection's next request; Tornado calls this before it reads on."""
        # Tornado makes the connection itself, and can't be given another class for it.
        cast(HTTP1Connection, request_conn).__class__ = LimitedConnection
        client = cast(LimitedConnection, request_conn).client
        client.start_request()
        self._shares.wait(client, self._loop.time())
        delegate = super().start_request(server_conn, request_conn)
        return _IncomingRequest(delegate, client, self, self._shares)

    @property
    def awaits_first_request(self) -> bool:
        """True if a connection is open that has sent no request, and is too new to be idle."""
        latest = self._loop.time() + self._timeout - EVICTED_AFTER_SECONDS
        return any(
            deadline > latest and not stream.has_sent_request for stream, deadline in self._deadlines.items()
        )

    def start_timeout(self, stream: ClientStream) -> None:
        """Start the client's timeout anew, for headers, body or answer."""
        self._deadlines.pop(stream, None)
        self._deadlines[stream] = self._loop.time() + self._timeout

    def request_received(self, stream: ClientStream) -> None:
        """Stop the client's timeout: its whole request has arrived."""
        self._deadlines.pop(stream, None)
        if stream is not self._latest:
            self._latest, self._other_latest_at = stream, self._latest_at
        self._latest_at = self._loop.time()

    @property
    def has_single_client(self) -> bool:
        """True if only one connection has sent requests for the last SINGLE_CLIENT_SECONDS."""
        return self._latest_at - self._other_latest_at > SINGLE_CLIENT_SECONDS

    def stop_timeout(self, stream: ClientStream) -> None:
        """Stop the client's timeout."""
        self._deadlines.pop(stream, None)

    def _oldest_idle(self, holder: Holder) -> ClientStream | None:
        """Return the holder's longest idle connection; None if none has been so for EVICTED_AFTER_SECONDS."""
        return cast(ClientStream | None, holder.oldest_idle(self._loop.time() - EVICTED_AFTER_SECONDS))

    def _least_missed(self) -> ClientStream | None:
        """Return the connection to close for a new one; None if none has waited long enough.

        A request that is still arriving is the last choice.
        """
        biggest = self._shares.biggest_holder()
        latest = self._loop.time() + self._timeout - EVICTED_AFTER_SECONDS
        arriving = (
            stream
            for stream, deadline in self._deadlines.items()  # in the order of their waiting
            if deadline <= latest and stream.holder is biggest
        )
        return self._oldest_idle(biggest) or next(arriving, None)

    def _close(self, stream: ClientStream) -> None:
        # Tornado calls `on_close` only later.
        self._shares.remove(stream)
        self.stop_timeout(stream)
        stream.close()

    def _close_timed_out(self) -> None:
        # One timer for all connections: a timer for each request costs about 10 % of a request.
        self._timer = self._loop.call_later(min(1.0, self._timeout / 4), self._close_timed_out)
        now = self._loop.time()
        while self._deadlines:
            stream, deadline = next(iter(self._deadlines.items()))
            if deadline > now:
                break
            del self._deadlines[stream]
            stream.close()

    def on_close(self, server_conn: object) -> None:
        """Accept again, as a connection has ended; Tornado calls this."""
        super().on_close(server_conn)
        stream = cast(ClientStream, cast(HTTP1ServerConnection, server_conn).stream)
        self.stop_timeout(stream)
        self._shares.remove(stream)
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
        for _ in range(MAX_ACCEPTED_AT_ONCE):
            least_missed = self._least_missed() if self._shares.is_full else None
            if self._shares.is_full and least_missed is None:
                self._warn("there are as many as there is room for")
                self._loop.call_later(EVICTED_AFTER_SECONDS / 4, self._resume)
                return self._pause()  # `on_close` resumes as well
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return None
            except OSError as error:
                self._warn(error.strerror or "")
                self._loop.call_later(RETRY_ACCEPT_SECONDS, self._resume)
                return self._pause()
            holder = self._shares.holder_of_peer(address[0])
            if holder.is_full:
                least_missed = self._oldest_idle(holder)
                if least_missed is None:
                    connection.close()
                    continue
            if least_missed is not None:
                self._close(least_missed)
            stream = ClientStream(connection, self, self._shares, max_buffer_size=self.max_buffer_size)
            self._shares.add(stream, holder)
            self.start_timeout(stream)  # Tornado calls `start_request` only later
            self.handle_stream(stream, address)
        return None

    def _warn(self, reason: str) -> None:
        now = self._loop.time()
        if now - self._warned_at >= RETRY_ACCEPT_SECONDS:
            self._warned_at = now
            facts = {"reason": reason, "connections": self._shares.total}
            log.warning("no more connections are taken for now", extra=facts)


class _IncomingRequest(HTTPMessageDelegate):
    """A request that is still arriving: starts and stops its client's timeout on the server."""

    def __init__(
        self,
        delegate: HTTPMessageDelegate,
        stream: ClientStream,
        server: LimitedHTTPServer,
        shares: ConnectionShares,
    ) -> None:
        self._delegate, self._stream, self._server, self._shares = delegate, stream, server, shares
        server.start_timeout(stream)

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._stream.has_sent_request = True
        self._server.start_timeout(self._stream)
        self._shares.begin(self._stream)
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._server.request_received(self._stream)
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._server.stop_timeout(self._stream)
        self._delegate.on_connection_close()


def listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen there. host: empty for each interface. Raises SettingError."""
    try:
        return bind_sockets(port, host or None, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "that is no host name"
        raise SettingError(
            f"can't listen on {host} port {port}: {reason}; "
            "choose another with --host or --port, or LEADS_HOST or LEADS_PORT"
        ) from None
