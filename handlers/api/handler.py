"""Owns one exchange under /api/: what is decided of a request before its body is looked at, and its answer.

It stands on Tornado's connections, one level below its RequestHandler: that alone takes longer than all that
a lead needs (measured: bare Tornado answers 4,200 POSTs a second, and 8,500 without it).
"""

import functools
import json
import logging
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
    format_timestamp,
)

from handlers.api.cors import Allowlist
from handlers.api.rate_limit import RateLimiter, RateLimitResult, is_proxy, source_address
from handlers.errors import ApiError, BadRequest, InternalError, Unavailable
from handlers.log import log_answer
from models.clock import Clock
from models.intake import KeyReused, Recorded, Submission
from models.origin import is_origin, origin_of
from models.settings import Network
from models.storage import StorageError, WriteResult

log = logging.getLogger("leads.http")

MAX_BODY_BYTES = 64 * 1024
# A body somewhat too large is read to its end and thrown away: closing on a client that is still sending
# would reset the connection, and it might never see the 413.
MAX_DRAINED_BYTES = 1024 * 1024

THROTTLED = {"message": "throttled", "human_message": "Too many requests. Please try again later."}
EXPOSED = "Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, X-Request-Id"
DIGITS = re.compile("[0-9]+")
HOST = re.compile(r"[\w.:\[\]%~!$&'()*+;=-]+", re.ASCII)


# Is called with what became of a lead.
Stored = Callable[[WriteResult[Recorded | KeyReused]], None]


@dataclass(frozen=True, slots=True)
class ApiContext:
    """What the exchanges work with. in_flight: those that are not over yet."""

    record_lead: Callable[[Submission, Stored], None]
    limiter: RateLimiter
    allowlist: Allowlist
    trusted_proxies: tuple[Network, ...]
    clock: Clock
    in_flight: set[object]


class ApiHandler(HTTPMessageDelegate):
    """A request and its answer. A subclass names its methods and responds to them; this one knows of none.

    The request is judged when its headers are in; a refusal is sent once the body has arrived and been
    thrown away, so that the connection stays usable.
    """

    route = "(unknown)"  # for the log: a path from outside could hold anything
    methods: tuple[str, ...] = ()
    request_headers = "Content-Type, Accept, Idempotency-Key"  # those that a page may send

    def __init__(self, api: ApiContext, connection: HTTP1Connection) -> None:
        self.api = api
        self.request_id = f"{random.getrandbits(128):032x}"  # to be told apart, not to be kept secret
        self.body = bytearray()
        self.log_fields: dict[str, Any] = {}
        self._connection = connection
        self._began = time.perf_counter()
        self._received = 0
        self._complete = False  # all of the request is here
        self._refusal: ApiError | None = None
        self._answer_headers = {
            "Content-Type": "application/json",
            "Cache-Control": "no-store",
            "Vary": "Origin",
            "X-Content-Type-Options": "nosniff",
            "X-Request-Id": self.request_id,
        }
        api.in_flight.add(self)

    # What Tornado's connection calls, in this order.

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Judge the request by its headers."""
        assert isinstance(start_line, RequestStartLine)
        self.method, self.headers = start_line.method, dict(headers)  # a dict is ten times as fast to ask
        self._old = start_line.version == "HTTP/1.0"  # which needs no Host
        self._preflight = self.method == "OPTIONS" and "Origin" in self.headers
        self._connection.set_max_body_size(sys.maxsize)  # judged here; Tornado's own answer is a bare 400
        self._guard(self._admit)
        if self._refusal is None and "Origin" in self.headers and not self._origin_known:
            return self._ask_for_origin(self.headers["Origin"])
        self._guard(self._judge_request)
        return None

    def data_received(self, chunk: bytes) -> None:
        """Keep a part of the body, or throw it away."""
        self._received += len(chunk)
        if self._received > MAX_BODY_BYTES:
            self._refusal = self._refusal or _too_large()
        if self._refusal is None:
            self.body += chunk
        elif self._received > MAX_DRAINED_BYTES:
            self._refuse(self._refusal)

    def finish(self) -> None:
        """All of the request is here: respond to it."""
        self._complete = True
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif self.method == "OPTIONS":
            self._answer_options()
        else:
            self.conclude(self.respond)

    def on_connection_close(self) -> None:
        """The client is gone before all of its request was here."""
        self.api.in_flight.discard(self)

    # What is decided at the headers.

    def _guard(self, judge: Callable[[], None]) -> None:
        try:
            judge()
        except ApiError as refusal:
            self._refusal = self._refusal or refusal
        except Exception:
            self._refusal = self._unforeseen()

    def _admit(self) -> None:
        # In this order: an answered preflight doesn't count (C28), everything else does; over the limit
        # nothing more is looked at, and the buildings aren't read (C29); a refused origin learns no more.
        headers = self.headers
        peer = self._connection.context.remote_ip  # type: ignore[attr-defined]
        self.source = source_address(peer, headers.get("X-Forwarded-For"), self.api.trusted_proxies)
        origin = headers.get("Origin")
        self._origin_known = origin is not None and self.api.allowlist.knows(origin, self._addressed_to())
        if origin is not None and self._origin_known:
            self._allow(origin)
        result = self._take(0 if self._preflight and self._origin_known else 1)
        if not result.allowed:
            raise ApiError(429, THROTTLED, Retry_After=str(result.retry_after))

    async def _ask_for_origin(self, origin: str) -> None:
        try:
            if not await self.api.allowlist.allows(origin, self._addressed_to()):
                # An origin is a host's name; what isn't one could be anything, and is not logged.
                raise ApiError(
                    403,
                    f"origin {origin} is not registered for any building",
                    quotes_client=not is_origin(origin),
                )
            self._allow(origin)
            if self._preflight:
                self._take(-1)
        except ApiError as refusal:
            self._refusal = refusal
        except StorageError:
            self._refusal = Unavailable("the server can't read its data now", 5)
        except Exception:
            self._refusal = self._unforeseen()
        self._guard(self._judge_request)

    def _judge_request(self) -> None:
        announced = self.headers.get("Content-Length", "0")
        if not DIGITS.fullmatch(announced):
            return self._refuse(self._refusal or BadRequest("malformed Content-Length"))
        coding = self.headers.get("Transfer-Encoding")
        if coding is not None and (coding.lower() != "chunked" or "Content-Length" in self.headers):
            return self._refuse(self._refusal or BadRequest("malformed Transfer-Encoding"))
        size = int(announced) if len(announced) <= 18 else sys.maxsize
        if size > MAX_BODY_BYTES:
            self._refusal = self._refusal or _too_large()
        if self._refusal is not None:
            return self._refuse(self._refusal) if size > MAX_DRAINED_BYTES else None
        if not HOST.fullmatch(self.headers.get("Host", "localhost" if self._old else "")):
            raise BadRequest("malformed Host")
        if self._preflight:
            return None
        if not self.methods:
            raise ApiError(404, "there is no such path; leads are POSTed to /api/v1/website_leads")
        allowed = (*self.methods, "OPTIONS")
        if self.method not in allowed:
            allow = ", ".join(allowed)
            said = f"{self.method} is not allowed here; allowed: {allow}"
            raise ApiError(405, said, quotes_client=True, Allow=allow)
        return None

    def _take(self, tokens: int) -> RateLimitResult:
        result = self.api.limiter.take(self.source, self.api.clock.monotonic_ns(), tokens)
        self._answer_headers["RateLimit-Limit"] = str(result.limit)
        self._answer_headers["RateLimit-Remaining"] = str(result.remaining)
        self._answer_headers["RateLimit-Reset"] = str(result.reset)
        return result

    def _allow(self, origin: str) -> None:
        self._answer_headers["Access-Control-Allow-Origin"] = origin
        self._answer_headers["Access-Control-Expose-Headers"] = EXPOSED

    def _addressed_to(self) -> str | None:
        protocol = self._connection.context.protocol  # type: ignore[attr-defined]
        peer = self._connection.context.remote_ip  # type: ignore[attr-defined]
        forwarded = self.headers.get("X-Forwarded-Proto")
        if forwarded is not None and is_proxy(peer, self.api.trusted_proxies):
            protocol = forwarded.rpartition(",")[2].strip().lower()
        try:
            return origin_of(f"{protocol}://{self.headers.get('Host', '')}")
        except ValueError:
            return None  # a Host that no browser has sent

    # The answer.

    def respond(self) -> None:
        """Answer an admitted request of one of the methods, now or later; its body is in `body`. May raise
        ApiError.
        """
        raise NotImplementedError

    def conclude(self, step: Callable[[], None]) -> None:
        """Take this step towards the answer; a ApiError that it raises is the answer."""
        try:
            step()
        except ApiError as refusal:
            self._refuse(refusal)
        except Exception:
            unforeseen = self._unforeseen()
            if self in self.api.in_flight:  # else it has its answer, and another would be taken for the next
                self._refuse(unforeseen)

    def answer(self, status: int, body: Any) -> None:
        """Answer with this status and this value as JSON."""
        self.send(status, _as_json(body).encode())

    def _answer_options(self) -> None:
        headers = self._answer_headers
        if self._preflight:
            headers["Access-Control-Allow-Methods"] = "POST, OPTIONS"
            headers["Access-Control-Allow-Headers"] = self.request_headers
            headers["Access-Control-Max-Age"] = "300"
        headers["Allow"] = ", ".join((*self.methods, "OPTIONS"))
        self.send(204, b"")

    def _refuse(self, refusal: ApiError) -> None:
        if refusal.loggable is not None:
            self.log_fields["refused"] = refusal.loggable
        self._answer_headers.update(refusal.headers)
        self.answer(refusal.status_code, refusal.body)

    def _unforeseen(self) -> ApiError:
        log.exception("failed", extra={"request": self.request_id})
        return InternalError(self.request_id)

    def send(self, status: int, content: bytes) -> None:
        """Send the answer; the exchange is over."""
        headers = _Headers(self._answer_headers, Date=_now(int(time.time())))
        if status == 204:
            del headers["Content-Type"]
        else:
            headers["Content-Length"] = str(len(content))
        if not self._complete:
            headers["Connection"] = "close"  # what is still coming would be taken for the next request
        start_line = ResponseStartLine("HTTP/1.1", status, HTTPStatus(status).phrase)
        chunk = None if self.method == "HEAD" else content
        self._connection.write_headers(start_line, cast(HTTPHeaders, headers), chunk)
        self._connection.finish()
        self.api.in_flight.discard(self)
        log_answer(self.request_id, self.method, self.route, status, self.seconds, self.log_fields)

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.perf_counter() - self._began


class _Headers(dict[str, str]):
    """As much of Tornado's HTTPHeaders as its connection uses to write an answer, without the checks of names
    that are constants here. It is the connection that refuses line breaks in values.
    """

    get_all = dict.items


_as_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make one each time


@functools.lru_cache(1)
def _now(seconds: int) -> str:
    return format_timestamp(seconds)


def _too_large() -> ApiError:
    return ApiError(413, f"the body is too large (maximum is {MAX_BODY_BYTES} bytes)")
