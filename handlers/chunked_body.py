"""Chunked bodies as RFC 9112 defines them. Tornado refuses chunk extensions and trailers."""

import asyncio
import re
from collections.abc import Callable

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPInputError, HTTPMessageDelegate

MAX_LINE_BYTES = 4 * 1024  # of a chunk's line: its size and its extensions
MAX_TRAILER_BYTES = 16 * 1024  # of all trailers
MAX_FRAMING_BYTES = 512 * 1024  # of all chunks' lines, where each counts as CHUNK_BYTES more than it has
CHUNK_BYTES = 16  # a chunk takes time, however short it is; with this there are at most 27,000 of them
# A client that sends without a pause must not keep the event loop to itself.
YIELD_BYTES = 256 * 1024
LINE_COST = 1024  # a line costs about as much time as so many bytes of data

_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
# Servers that disagree on where a line ends can be made to disagree on where the request ends. So a size is
# nothing but hexadecimal digits, and a line break is CRLF.
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;" + _TEXT + rb")?\r\n")
TRAILER_LINE = re.compile(rb"[\w!#$%&'*+.^`|~-]+:" + _TEXT + rb"\r\n")


def _up_to_line_feed(maximum: int) -> bytes:
    """Return a pattern of a line, or of as much of a longer one as is allowed.

    With IOStream's own `max_bytes` the connection would be closed without an answer.
    """
    return rb"\A(?:[^\n]{0,%d}+\n|[^\n]{%d})" % (maximum - 1, maximum)


_UP_TO_CHUNK_LINE = _up_to_line_feed(MAX_LINE_BYTES)
_UP_TO_TRAILER_LINE = _up_to_line_feed(MAX_TRAILER_BYTES)


class ChunkedConnection(HTTP1Connection):
    """HTTP connection that takes any chunked body. It ignores chunk extensions and trailers."""

    on_malformed: Callable[[str], None] | None = None  # answers a malformed body, in place of a bare 400
    _work = 0  # bytes since the last pause for others

    async def _read_chunked_body(self, delegate: HTTPMessageDelegate) -> None:
        framing, room = MAX_FRAMING_BYTES, self._max_body_size
        while True:
            line = await self.stream.read_until_regex(_UP_TO_CHUNK_LINE)
            match = CHUNK_LINE.fullmatch(line)
            framing -= len(line) + CHUNK_BYTES
            if match is None or framing < 0:
                raise self._malformed("a chunk's line is malformed or too long")
            await self._count_work(LINE_COST)
            size = int(match[1], 16)
            if size == 0:
                return await self._skip_trailers()
            room -= size
            if room < 0:
                raise self._malformed("the chunked body is too large")
            while size:
                data = await self.stream.read_bytes(min(size, self.params.chunk_size), partial=True)
                size -= len(data)
                await self._deliver_body(delegate, data)
                await self._count_work(len(data))
            if await self.stream.read_bytes(2) != b"\r\n":
                raise self._malformed("a chunk does not end with a line break")

    async def _skip_trailers(self) -> None:
        room = MAX_TRAILER_BYTES
        while (line := await self.stream.read_until_regex(_UP_TO_TRAILER_LINE)) != b"\r\n":
            room -= len(line)
            if room < 0 or not TRAILER_LINE.fullmatch(line):
                raise self._malformed("a trailer is malformed or too long")
            await self._count_work(LINE_COST)

    def _malformed(self, reason: str) -> HTTPInputError:
        if self.on_malformed is not None:
            self.on_malformed(reason)
        return HTTPInputError(reason)  # Tornado closes the connection

    async def _count_work(self, size: int) -> None:
        self._work += size
        if self._work >= YIELD_BYTES:
            self._work = 0
            await asyncio.sleep(0)
