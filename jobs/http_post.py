"""A POST whose status line decides, whatever follows it.

An HTTP library judges the whole response. A partner that accepts a lead with 204 and a body, or with headers
that are malformed, has accepted it all the same: a second POST would make the lead twice.
"""

import asyncio
import base64
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from jobs.adapter import system_error_text

ATTEMPT_SECONDS = 0.25  # before the next address of the host is tried as well (RFC 8305)
HEADER_SECONDS = 2.0  # for the headers behind a status line
WITH_HEADERS = (429, 503)  # these may name a time to wait
MAX_LINES = 200  # of a response's head
STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})(?![\w.])")


class NotConnected(Exception):
    """No connection was made, so nothing was sent. The message says why."""


class NoAnswer(Exception):
    """The request was sent, at least in part, and no status line came. The message says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a POST. headers: of a 429 or 503, as many as could be read, with names in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


async def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    connect_seconds: float,
    answer_seconds: float,
    tls: ssl.SSLContext | None = None,
) -> Reply:
    """POST a body to an http or https URL, and return the status that the server answers with.

    tls: by default the system's certificate authorities count. Raises NotConnected and NoAnswer.
    """
    parts = urlsplit(url)
    is_encrypted = parts.scheme == "https"
    try:
        async with asyncio.timeout(connect_seconds):
            reader, writer = await asyncio.open_connection(
                parts.hostname,
                parts.port or (443 if is_encrypted else 80),
                ssl=(tls or ssl.create_default_context()) if is_encrypted else None,
                happy_eyeballs_delay=ATTEMPT_SECONDS,
            )
    except TimeoutError:
        raise NotConnected("no connection in time") from None
    except (OSError, ValueError) as error:  # ValueError: a host name like 'a..b'
        raise NotConnected(system_error_text(error)) from None
    try:
        async with asyncio.timeout(answer_seconds):
            with suppress(OSError):  # an answer may come before the whole request is sent
                writer.write(_head(url, len(body), headers) + body)
                await writer.drain()
            status = await _read_status(reader)
    except TimeoutError:
        raise NoAnswer("no answer in time") from None
    except OSError as error:
        raise NoAnswer(system_error_text(error)) from None
    else:
        return Reply(status, await _read_headers(reader) if status in WITH_HEADERS else {})
    finally:
        writer.transport.abort()


def _head(url: str, size: int, headers: Mapping[str, str]) -> bytes:
    parts = urlsplit(url)
    host = parts.hostname or ""
    place = f"[{host}]" if ":" in host else host.encode("idna").decode()
    fields = {
        "Host": place if parts.port is None else f"{place}:{parts.port}",
        "Connection": "close",
        "Content-Length": str(size),
        **headers,
    }
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        fields["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


async def _read_status(reader: asyncio.StreamReader) -> int:
    """Return the status of the final response. Raises NoAnswer and OSError."""
    in_headers = False  # of a response that is not final, such as 100 (Continue)
    for _ in range(MAX_LINES):
        line = await _read_line(reader)
        if not line:
            raise NoAnswer("the connection was closed without an answer")
        match = STATUS_LINE.match(line)
        if match is not None and not match[1].startswith(b"1"):
            return int(match[1])
        if match is None and line.strip() and not in_headers:
            break
        in_headers = (in_headers or match is not None) and bool(line.strip())
    raise NoAnswer("no HTTP response came")


async def _read_headers(reader: asyncio.StreamReader) -> dict[str, str]:
    headers: dict[str, str] = {}
    with suppress(TimeoutError, OSError, NoAnswer):
        async with asyncio.timeout(HEADER_SECONDS):
            for _ in range(MAX_LINES):
                name, _, value = (await _read_line(reader)).decode("latin-1").partition(":")
                if not name.strip():
                    break
                headers[name.strip().lower()] = value.strip()
    return headers


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:  # longer than the reader's limit
        raise NoAnswer("no HTTP response came") from None
