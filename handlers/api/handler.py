"""ApiHandler: one request under /api/, from its headers to its answer.

headers_received   Admission decides by the headers: rate limit, origin, framing, path, method
data_received      the body is collected
finish             post(), which a subclass defines, answers now or later by write_json()

If a step raises an error, write_error() answers with it. The class implements Tornado's HTTPMessageDelegate.
It is no RequestHandler, because that alone takes longer than all that a lead needs.
"""

import functools
import json
import logging
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any, ParamSpec, cast

from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
    format_timestamp,
)

from handlers.api.admission import MAX_BODY_BYTES, MAX_DRAINED_BYTES, Admission
from handlers.api.context import ApiContext
from handlers.api.large_bodies import LARGE_BODY_BYTES
from handlers.errors import ApiError, BadRequest, InternalError, TooLarge
from handlers.http_connection import LimitedConnection

log = logging.getLogger("leads.http")

MAX_KEPT_HEAD_BYTES = 2 * 1024  # of a refused request; dropping the headers takes as long as parsing them
MAX_ASKED_HEADERS = 1_000  # characters of Access-Control-Request-Headers (C26)
TOKEN = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)  # a header's name (RFC 9110)

Params = ParamSpec("Params")


class ApiHandler(HTTPMessageDelegate):
    """Handler of one request. By itself it answers 404; a subclass names its methods and defines `post`."""

    route = "(unknown)"  # for the log, which holds no path that a client made up
    methods: tuple[str, ...] = ()
    request_headers: Sequence[str] = ("Content-Type", "Accept", "Idempotency-Key")  # that a page may send

    def __init__(self, api: ApiContext, connection: LimitedConnection) -> None:
        self.api = api
        self.request_id = f"{random.getrandbits(128):032x}"  # unique, but no secret
        self.body = bytearray()
        self.log_fields: dict[str, Any] = {}
        self.response_headers = {
            "Content-Type": "application/json",
            "Cache-Control": "no-store",
            "Vary": "Origin",
            "X-Content-Type-Options": "nosniff",
            "X-Request-Id": self.request_id,
        }
        self._connection = connection
        self._started = time.perf_counter()
        self._received_bytes = 0
        self._complete = False  # the whole request has arrived
        self._error: ApiError | None = None  # the answer, once the whole request has arrived
        api.in_flight.add(self)

    # Tornado's connection calls these four, in this order.

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Decide by the headers whether the request is admitted."""
        assert isinstance(start_line, RequestStartLine)
        self.method, self.headers = start_line.method, dict(headers)  # a dict is read ten times as fast
        self.query = start_line.path.partition("?")[2]
        self._connection.set_max_body_size(sys.maxsize)  # Admission checks it; Tornado sends a bare 400
        if "Transfer-Encoding" in self.headers:
            self._connection.on_malformed = self._refuse_body
        self.admission = Admission(
            self.api, self._connection, start_line, self.headers, self.response_headers
        )
        self.run(self.admission.check_rate_limit)
        if self._error is None and not self.admission.origin_allowed:
            return self._look_up_origin()
        self._check_request()
        return None

    def data_received(self, chunk: bytes) -> None:
        """Collect a part of the body, or throw it away if the answer is an error already."""
        self._received_bytes += len(chunk)
        if self._error is None and self._received_bytes > MAX_BODY_BYTES:
            self._error = TooLarge(MAX_BODY_BYTES)
        if self._error is None:
            self.body += chunk
        elif self._received_bytes > MAX_DRAINED_BYTES:
            self._send_error(self._error)

    def finish(self) -> None:
        """Answer: the whole request has arrived."""
        self._complete = True
        if self._error is not None:
            self.run(self._send_error, self._error)
        elif self.method == "OPTIONS":
            self.run(self._write_options)
        elif len(self.body) <= LARGE_BODY_BYTES:
            self.run(self.post)
        else:
            self.api.large_bodies.submit(functools.partial(self.run, self.post))

    def _refuse_body(self, reason: str) -> None:
        # The rest can't be read, so the answer is sent at once.
        if self in self.api.in_flight:
            self._error = self._error or BadRequest(f"malformed chunked body: {reason}")
            self.run(self._send_error, self._error)

    def on_connection_close(self) -> None:
        """Forget the request: the client closed the connection before all of it had arrived."""
        self.api.in_flight.discard(self)

    # The steps of one request.

    async def _look_up_origin(self) -> None:
        try:
            await self.admission.look_up_origin()
        except Exception as error:
            self.write_error(error)
        self._check_request()

    def _check_request(self) -> None:
        self.run(self.admission.check_request, self.methods)
        if self._error is not None:
            self._connection.refuse_body()
            if self._connection.head_bytes > MAX_KEPT_HEAD_BYTES:
                self._drop_headers()
            if not self.admission.is_drainable:
                self._send_error(self._error)

    def _drop_headers(self) -> None:
        # The body of a refused request may take long, and its headers much memory.
        self._connection.drop_headers()
        language = self.headers.get("Accept-Language")
        self.headers.clear()
        if language is not None:
            self.headers["Accept-Language"] = language

    def post(self) -> None:
        """Answer an admitted POST, now or later; the body is in `body`. May raise ApiError."""
        raise NotImplementedError

    def run(self, step: Callable[Params, None], *args: Params.args, **kwargs: Params.kwargs) -> None:
        """Run a step towards the answer. An error that it raises is the answer."""
        try:
            step(*args, **kwargs)
        except Exception as error:
            self.write_error(error)

    # The answer.

    def write_error(self, error: Exception) -> None:
        """Answer with an error. One that is no ApiError is logged, and answered with 500 (C32).

        The answer to a request that is still arriving waits for its end: so the connection stays usable. Of
        several errors the first counts. Does nothing if the request has its answer.
        """
        if not isinstance(error, ApiError):
            log.error("failed", extra={"request": self.request_id}, exc_info=error)
            error = InternalError(self.request_id)
        if not self._complete:
            self._error = self._error or error
        elif self in self.api.in_flight:
            self._send_error(error)

    def _send_error(self, error: ApiError) -> None:
        if error.loggable is not None:
            self.log_fields["refused"] = error.loggable
        self.response_headers.update(error.headers)
        self.response_headers["Link"] = f'<{error.help_url}>; rel="help"'
        self.write_error_body(error)

    def _write_options(self) -> None:
        headers = self.response_headers
        if self.admission.is_preflight:
            headers["Access-Control-Allow-Methods"] = "POST, OPTIONS"
            headers["Access-Control-Allow-Headers"] = ", ".join(self._allowed_headers())
            headers["Access-Control-Max-Age"] = "300"
        headers["Allow"] = ", ".join((*self.methods, "OPTIONS"))
        self.send(204, b"")

    def _allowed_headers(self) -> Iterable[str]:
        # All that the page asks for: scripts of others, such as for tracing, add headers to its requests.
        asked = self.headers.get("Access-Control-Request-Headers", "")
        names = asked.split(",") if len(asked) <= MAX_ASKED_HEADERS else []
        known = {name.lower() for name in self.request_headers}
        tokens = filter(TOKEN.fullmatch, (name.strip() for name in names))
        return [*self.request_headers, *(token for token in tokens if token.lower() not in known)]

    def write_error_body(self, error: ApiError) -> None:
        """Answer with an error, in JSON; a subclass may have a page for it."""
        self.write_json(error.status_code, error.body)

    def write_json(self, status: int, body: Any) -> None:
        """Answer with a status, and a value as JSON."""
        self.send(status, _to_json(body).encode())

    def send(self, status: int, content: bytes) -> None:
        """Send the answer, with `response_headers`."""
        headers = _ResponseHeaders(self.response_headers, Date=_http_date(int(time.time())))
        if status == 204:
            del headers["Content-Type"]
        else:
            headers["Content-Length"] = str(len(content))
        if not self._complete:
            headers["Connection"] = "close"  # the rest of the body would be read as the next request
        start_line = ResponseStartLine("HTTP/1.1", status, HTTPStatus(status).phrase)
        chunk = None if self.method == "HEAD" else content
        self._connection.write_headers(start_line, cast(HTTPHeaders, headers), chunk)
        self._connection.finish()
        self.api.in_flight.discard(self)
        self.api.access_log.write(
            self.request_id, self.method, self.route, status, self.seconds, self.log_fields
        )

    @property
    def seconds(self) -> float:
        """Seconds since the request began."""
        return time.perf_counter() - self._started


class _ResponseHeaders(dict[str, str]):
    """As much of HTTPHeaders as Tornado's connection needs to write an answer.

    HTTPHeaders checks each name, but the names are constants here. The connection itself refuses a line break
    in a value.
    """

    get_all = dict.items


_to_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes a new encoder each time


@functools.lru_cache(1)
def _http_date(seconds: int) -> str:
    return format_timestamp(seconds)
