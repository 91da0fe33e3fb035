"""Requests to pages: they are limited, and their bodies are not read."""

import sys
from collections.abc import Awaitable

from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine

from handlers.api.context import ApiContext
from handlers.base import Handler
from handlers.errors import ApiError, Throttled
from handlers.http_connection import LimitedConnection
from handlers.source_address import Address, source_address

# A page of the reference takes about ten requests.
REQUESTS_A_PAGE = 10
HEALTH_CHECKS = ("/livez", "/readyz")  # have no limit: balancers ask for these without a pause
READING = ("GET", "HEAD")
# So much of a body is read before the answer, so that its client can read the answer.
MAX_SHORT_BODY_BYTES = 64 * 1024


class PageLimiter:
    """Limiter of the pages. Its rates are REQUESTS_A_PAGE times those of the API, whose buckets it leaves."""

    def __init__(self, api: ApiContext) -> None:
        self._limiter = api.limiter.multiplied(REQUESTS_A_PAGE)
        self._trusted_proxies, self._clock = api.trusted_proxies, api.clock

    def judge(
        self, connection: LimitedConnection, start_line: RequestStartLine, headers: HTTPHeaders
    ) -> None:
        """Set the connection's refusal if the request is over the limit, or has a body that nothing takes."""
        forwarded_for = headers.get("X-Forwarded-For")
        source = source_address(connection.peer, forwarded_for, self._trusted_proxies)
        has_share = connection.client.claim(source)
        is_health_check = start_line.path.partition("?")[0] in HEALTH_CHECKS and start_line.method in READING
        connection.refusal = (
            (None if is_health_check else self._throttled(source, has_share))
            or connection.refusal
            or _unwanted_body(start_line.method, headers)
        )

    def _throttled(self, source: Address, has_share: bool) -> ApiError | None:
        result = self._limiter.take(source, self._clock.monotonic_ns())
        return None if result.allowed and has_share else Throttled(result.retry_after)


def _unwanted_body(method: str, headers: HTTPHeaders) -> ApiError | None:
    # A page refuses any other method by itself.
    has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
    if not has_body or method not in READING:
        return None
    return ApiError(413, "this path takes no body; leads are POSTed to /api/v1/website_leads")


class Refused(Handler):
    """Answer to a request that its head shows to be refused."""

    def prepare(self) -> None:
        raise self.request.connection.refusal  # type: ignore[union-attr]


class BodylessRequest(HTTPMessageDelegate):
    """Passes a request on to its page, without its body. A page that takes no POST refuses the method."""

    def __init__(self, page: HTTPMessageDelegate, connection: LimitedConnection) -> None:
        self._page, self._connection = page, connection
        self._finished = False

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Pass the head on. A request with a long body, or in chunks, is answered at once."""
        length = headers.get("Content-Length", "0")
        is_short = length.isdecimal() and len(length) < 10 and int(length) <= MAX_SHORT_BODY_BYTES
        headers.pop("Content-Type", None)  # Tornado would parse the empty body by it
        self._page.headers_received(start_line, headers)
        if "Transfer-Encoding" in headers or not is_short:
            self._connection.set_max_body_size(sys.maxsize)  # else Tornado sends a bare 400
            self._connection.refuse_body()
            self.finish()
        return None

    def data_received(self, chunk: bytes) -> None:
        """Throw a part of the body away."""

    def finish(self) -> None:
        """Answer."""
        if not self._finished:
            self._finished = True
            self._page.finish()

    def on_connection_close(self) -> None:
        self._page.on_connection_close()
