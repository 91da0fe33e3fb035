"""Admission to the API: what is decided by a request's headers, before its body is read."""

import re
import sys
from collections.abc import Mapping

from tornado.httputil import RequestStartLine

from handlers.api.context import ApiContext
from handlers.api.form_navigation import is_form_navigation, is_unattended
from handlers.api.rate_limit import RateLimitResult
from handlers.errors import ApiError, BadRequest, Throttled, TooLarge, Unavailable
from handlers.http_connection import LimitedConnection
from handlers.source_address import Address, is_proxy, source_address
from models.origin import MAX_ORIGIN_LENGTH, is_origin, page_origin
from models.shown_text import cut
from models.storage import StorageError

MAX_BODY_BYTES = 64 * 1024
# A body up to this size is read to its end and thrown away before the error is sent. Closing the connection
# while the client still sends would reset it, and the client might never read the 413.
MAX_DRAINED_BYTES = 1024 * 1024

EXPOSED = (
    "Retry-After, Link, Preference-Applied, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, "
    "X-Request-Id"
)
DIGITS = re.compile("[0-9]+")
HOST = re.compile(r"[\w.:\[\]%%~!$&'()*+;=-]{1,%d}" % MAX_ORIGIN_LENGTH, re.ASCII)
MAX_METHOD_LENGTH = 20  # characters of a method in an error


def has_malformed_host(start_line: RequestStartLine, headers: Mapping[str, str]) -> bool:
    """Return True if the request's Host can't be one. Only HTTP/1.0 needs none."""
    host = headers.get("Host", "localhost" if start_line.version == "HTTP/1.0" else "")
    return HOST.fullmatch(host) is None


class Admission:
    """Decision on one request: rate limit, then CORS origin, then framing, path and method.

    Each check raises ApiError. The headers that every answer carries (rate limit, CORS) are put into
    `response_headers` on the way.
    """

    __slots__ = (
        "_api",
        "_connection",
        "_headers",
        "_origin",
        "_peer",
        "_protocol",
        "_response_headers",
        "_start_line",
        "is_drainable",
        "is_form_navigation",
        "is_preflight",
        "origin_allowed",
        "source",
    )
    source: Address  # where the request comes from (C30)

    def __init__(
        self,
        api: ApiContext,
        connection: LimitedConnection,
        start_line: RequestStartLine,
        headers: dict[str, str],
        response_headers: dict[str, str],
    ) -> None:
        self._api = api
        self._connection = connection
        self._peer = connection.peer
        self._protocol = connection.context.protocol  # type: ignore[attr-defined]
        self._start_line = start_line
        self._headers = headers
        self._response_headers = response_headers
        self._origin = headers.get("Origin") or None  # an empty one is none (C27)
        self.is_preflight = start_line.method == "OPTIONS" and self._origin is not None
        self.origin_allowed = self._origin is None  # without an origin CORS does not apply (C27)
        self.is_form_navigation = is_form_navigation(start_line.method, headers)
        self.is_drainable = True  # the body is of a known size, and small enough to be read to its end

    def check_rate_limit(self) -> None:
        """Take a token from the source's bucket. Raises 429.

        An origin in memory gets its CORS headers first, so a 429 has them too (C26).
        """
        # An answered preflight takes no token (C28). Over the limit the database is not read (C29): so
        # `look_up_origin` comes later, for an origin that is not in memory.
        self.source = source_address(
            self._peer, self._headers.get("X-Forwarded-For"), self._api.trusted_proxies
        )
        origin = self._origin
        if origin is not None and self._api.allowlist.knows(origin, self._requested_origin()):
            self._allow(origin)
        result = self._take(0 if self.is_preflight and self.origin_allowed else 1)
        self._api.undeclared_proxies.note(self._peer, self._headers, may_write=result.allowed)
        has_share = self._connection.client.claim(self.source)
        if not (result.allowed and has_share):
            raise Throttled(result.retry_after)

    async def look_up_origin(self) -> None:
        """Read the registered origins, and set the CORS headers if this one is among them (C25).

        Raises 403 if it is not, except for a form navigation, which CORS does not apply to; and Unavailable.
        """
        origin = self._origin
        assert origin is not None
        try:
            allowed = await self._api.allowlist.allows(origin, self._requested_origin())
        except StorageError:
            raise Unavailable("the server can't read its data now", 5) from None
        if not allowed:
            if self.is_form_navigation:
                return
            # A real origin is the name of a host. Any other text could be anything, so it is not logged.
            quotes_client, shown = not is_origin(origin), cut(origin, MAX_ORIGIN_LENGTH)
            raise ApiError(403, f"origin {shown} is not registered for any building", quotes_client)
        self._allow(origin)
        if self.is_preflight:
            self._take(-1)

    @property
    def registered_origin(self) -> str | None:
        """The page's origin if CORS allows it; None of a program, and of an unregistered page."""
        return self._origin if self.origin_allowed else None

    @property
    def unregistered_origin(self) -> str | None:
        """The origin of a form navigation that no building has registered; None of any other request."""
        return self._origin if self.is_form_navigation and not self.origin_allowed else None

    @property
    def is_unattended(self) -> bool:
        """True if the visitors of a page that no building has registered may not know that it sends leads."""
        return self.unregistered_origin is not None and is_unattended(self._headers)

    def check_request(self, methods: tuple[str, ...]) -> None:
        """Check framing, size, Host, path and method. methods: those of the path; () if it is unknown.

        Raises 400, 404, 405, 413, 415 or 431.
        """
        self._check_framing()
        if has_malformed_host(self._start_line, self._headers):
            raise BadRequest("malformed Host")
        if self.is_preflight:
            return
        if not methods:
            raise ApiError(404, "there is no such path; leads are POSTed to /api/v1/website_leads")
        method, allowed = self._start_line.method, (*methods, "OPTIONS")
        if method not in allowed:
            allow = ", ".join(allowed)
            message = f"{cut(method, MAX_METHOD_LENGTH)} is not allowed here; allowed: {allow}"
            raise ApiError(405, message, quotes_client=True, Allow=allow)
        self._check_coding()

    def _check_framing(self) -> None:
        headers = self._headers
        announced, coding = headers.get("Content-Length", "0"), headers.get("Transfer-Encoding")
        self.is_drainable = False
        if self._connection.refusal is not None:
            raise self._connection.refusal
        if not DIGITS.fullmatch(announced):
            raise BadRequest("malformed Content-Length")
        if coding is not None and (coding.lower() != "chunked" or "Content-Length" in headers):
            raise BadRequest("malformed Transfer-Encoding")
        size = int(announced) if len(announced) <= 18 else sys.maxsize
        # A client that expects 100 (Continue) sends no body before an answer.
        self.is_drainable = size <= MAX_DRAINED_BYTES and "Expect" not in headers
        if size > MAX_BODY_BYTES:
            raise TooLarge(MAX_BODY_BYTES)

    def _check_coding(self) -> None:
        codings = self._headers.get("Content-Encoding", "").lower().split(",")
        if any(coding.strip() not in ("", "identity") for coding in codings):
            message = "the body must not be compressed: send it without a Content-Encoding header"
            raise ApiError(415, message, Accept_Encoding="identity")

    def _take(self, tokens: int) -> RateLimitResult:
        result = self._api.limiter.take(self.source, self._api.clock.monotonic_ns(), tokens)
        headers = self._response_headers
        headers["RateLimit-Limit"] = str(result.limit)
        headers["RateLimit-Remaining"] = str(result.remaining)
        headers["RateLimit-Reset"] = str(result.reset)
        return result

    def _allow(self, origin: str) -> None:
        self.origin_allowed = True
        self._response_headers["Access-Control-Allow-Origin"] = origin
        self._response_headers["Access-Control-Expose-Headers"] = EXPOSED

    def _requested_origin(self) -> str | None:
        """Return the origin that the request was addressed to; None if that says nothing of the page.

        On a server that others can reach, the name in Host may be one that a stranger has pointed to it.
        """
        if not self._api.is_loopback_only:
            return None
        protocol, forwarded = self._protocol, self._headers.get("X-Forwarded-Proto")
        if forwarded is not None and is_proxy(self._peer, self._api.trusted_proxies):
            protocol = forwarded.rpartition(",")[2].strip().lower()
        return page_origin(f"{protocol}://{self._headers.get('Host', '')}")
