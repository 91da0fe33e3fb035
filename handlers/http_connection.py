"""LimitedConnection: one request of a client, with limits on its head and on its chunks."""

import re
from asyncio import Future
from typing import cast

from tornado.httputil import HTTPHeaders, RequestStartLine, ResponseStartLine

from handlers.chunked_body import ChunkedConnection
from handlers.client_stream import HEAD_ENDS, MAX_HEAD_BYTES, ClientStream
from handlers.errors import ApiError

MAX_HEADER_LINES = 100
MAX_TARGET = 1_000  # characters of a first line without an end, of which the path is read
MAX_THROTTLED = 100  # a client that goes on after so many answers of 429 in a row is disconnected
WANTED_LINES = re.compile(rb"(?im)^(?:host|origin|x-forwarded-for):[^\n]*")  # when there are too many headers
# What Tornado needs of the headers once they are judged.
FRAMING = ("Connection", "Content-Length", "Expect", "Transfer-Encoding")


class LimitedConnection(ChunkedConnection):
    """HTTP connection that parses at most MAX_HEADER_LINES headers, of MAX_HEAD_BYTES.

    refusal: why the request is refused, whatever its handler. The handler answers with it. head_bytes: of its
    first line and headers.
    """

    refusal: ApiError | None = None
    head_bytes = 0
    _is_cut = False  # the head was too large, and what follows can't be read

    @property
    def client(self) -> ClientStream:
        """The client's stream."""
        return cast(ClientStream, self.stream)

    @property
    def peer(self) -> str:
        """Address of the socket's peer."""
        return str(self.context.remote_ip)  # type: ignore[attr-defined]

    def _parse_headers(self, data: bytes) -> tuple[str, HTTPHeaders]:
        self.head_bytes = len(data)
        is_whole = len(data) <= MAX_HEAD_BYTES and data.endswith(HEAD_ENDS)
        if is_whole and data.count(b"\n") <= MAX_HEADER_LINES + 2:
            return super()._parse_headers(data)
        self._is_cut = True
        self.refusal = ApiError(
            431,
            "the request's headers are too large (maximum is "
            f"{MAX_HEAD_BYTES} bytes in {MAX_HEADER_LINES} lines, with the URL): send fewer, or shorter ones",
        )
        # Who asks, and for what, is read all the same. If the end of the head has not come, the addresses are
        # not: the last ones, which proxies write, are missing. The first ones are the client's own text.
        ends = [at for end in HEAD_ENDS if (at := data.find(end)) >= 0]
        head = data[: min(ends)] if ends else data.rpartition(b"\n")[0] or data[:MAX_TARGET] + b" HTTP/1.1"
        lines = WANTED_LINES.findall(head)[-MAX_HEADER_LINES:]
        wanted = [line for line in lines if ends or not line.lower().startswith(b"x-forwarded-for")]
        first = head.lstrip(b"\r\n").partition(b"\n")[0]
        return super()._parse_headers(b"\n".join((first, *wanted)) + b"\n\n")

    def drop_headers(self) -> None:
        """Drop the headers that Tornado keeps, except for what it needs."""
        headers = self._request_headers
        if headers is not None:
            for name in [name for name in headers if name not in FRAMING]:
                del headers[name]

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> "Future[None]":
        """Send the head of the answer, and maybe its body."""
        client = self.client
        client.throttled = client.throttled + 1 if cast(ResponseStartLine, start_line).code == 429 else 0
        if client.throttled > MAX_THROTTLED or self._is_cut:
            self._disconnect_on_finish = True
        return super().write_headers(start_line, headers, chunk)
