"""Chunked bodies as RFC 9112 defines them. Tornado refuses chunk extensions and trailers."""

import asyncio
import re
from collections.abc import Callable
from typing import cast

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPInputError, HTTPMessageDelegate

from handlers.client_stream import BYTES_A_READ, GATHER_SECONDS, ClientStream

MAX_LINE_BYTES = 4 * 1024  # of a chunk's line: its size and its extensions
MAX_TRAILER_BYTES = 16 * 1024  # of all trailers, without the empty line behind them
# Of all chunks' lines, where each counts as CHUNK_BYTES more than it has: a chunk takes time, however short.
# So there are at most 7,400 chunks, and 230 in the body of a request that has been refused already.
MAX_FRAMING_BYTES = 256 * 1024
MAX_REFUSED_FRAMING_BYTES = 8 * 1024
CHUNK_BYTES = 32
SLICE_BYTES = 256  # are parsed before other clients have their turn
# So many lines are free, and each further one has to bring BYTES_A_READ. Otherwise there is a pause after
# each slice. So a client's bytes take little time in each second, though more in all.
FREE_LINES = 512

_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
# Servers that disagree on where a line ends can be made to disagree on where the request ends. So a size is
# nothing but hexadecimal digits, and a line break is CRLF.
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;" + _TEXT + rb")?\r\n")
TRAILER_LINE = re.compile(rb"[\w!#$%&'*+.^`|~-]+:" + _TEXT + rb"\r\n")


class MalformedChunks(Exception):
    """The bytes are no chunked body, or one beyond the limits. The message says why."""


class ChunkedBody:
    """Incremental parser of a chunked body.

    is_complete: the whole body has been fed; then `rest` has the bytes behind it. left_in_chunk: bytes of the
    current chunk that have not come. framing_left: bytes of chunks' lines that may still come. lines: of
    chunks and trailers, so far.
    """

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of the body."""
        self.is_complete = False
        self.rest = b""  # bytes that are not parsed yet
        self.framing_left = MAX_FRAMING_BYTES
        self.lines = 0
        self._room = max_bytes
        self._trailer_room = MAX_TRAILER_BYTES
        self._in_chunk = self._in_trailers = False
        self.left_in_chunk = 0

    def feed(self, received: bytes) -> bytes:
        """Parse these bytes, and return those of the body among them. Raises MalformedChunks."""
        data, at, body = self.rest + received, 0, []
        while not self.is_complete:
            if self.left_in_chunk:
                part = data[at : at + self.left_in_chunk]
                if not part:
                    break
                body.append(part)
                at += len(part)
                self.left_in_chunk -= len(part)
            elif self._in_chunk:
                if len(data) < at + 2:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise MalformedChunks("a chunk does not end with a line break")
                self._in_chunk = False
                at += 2
            else:
                end = data.find(b"\n", at) + 1
                line = data[at : end or len(data)]
                if len(line) > (self._trailer_room + 2 if self._in_trailers else MAX_LINE_BYTES):
                    raise self._malformed_line()
                if not end:
                    break
                at = end
                self._read_line(line)
        self.rest = data[at:]
        return b"".join(body)

    def _read_line(self, line: bytes) -> None:
        self.lines += 1
        if self._in_trailers:
            self.is_complete = line == b"\r\n"
            self._trailer_room -= 0 if self.is_complete else len(line)
            if self._trailer_room < 0 or not (self.is_complete or TRAILER_LINE.fullmatch(line)):
                raise self._malformed_line()
            return
        self.framing_left -= len(line) + CHUNK_BYTES
        match = CHUNK_LINE.fullmatch(line)
        if match is None or self.framing_left < 0:
            raise self._malformed_line()
        self.left_in_chunk = int(match[1], 16)
        self._in_chunk = self.left_in_chunk > 0
        self._in_trailers = not self._in_chunk
        self._room -= self.left_in_chunk
        if self._room < 0:
            raise MalformedChunks("the chunked body is too large")

    def _malformed_line(self) -> MalformedChunks:
        what = "trailer" if self._in_trailers else "chunk's line"
        return MalformedChunks(f"a {what} is malformed or too long")


class ChunkedConnection(HTTP1Connection):
    """HTTP connection that takes any chunked body. It ignores chunk extensions and trailers."""

    on_malformed: Callable[[str], None] | None = None  # answers a malformed body, in place of a bare 400
    _is_refused = False

    def refuse_body(self) -> None:
        """Take fewer chunks: the body will not be used."""
        self._is_refused = True

    async def _read_chunked_body(self, delegate: HTTPMessageDelegate) -> None:
        body, stream = ChunkedBody(self._max_body_size), cast(ClientStream, self.stream)
        if self._is_refused:
            body.framing_left = MAX_REFUSED_FRAMING_BYTES
        earned = FREE_LINES
        while not body.is_complete:
            size = max(SLICE_BYTES, min(body.left_in_chunk, self.params.chunk_size))
            received = await stream.read_bytes(size, partial=True)
            try:
                data = body.feed(received)
            except MalformedChunks as reason:
                if self.on_malformed is not None:
                    self.on_malformed(str(reason))
                raise HTTPInputError(str(reason)) from None  # Tornado closes the connection
            if data:
                await self._deliver_body(delegate, data)
            earned += len(data) // BYTES_A_READ
            # At the least, the others have their turn.
            await asyncio.sleep(0 if body.lines <= earned else GATHER_SECONDS)
        stream.unread(body.rest)
