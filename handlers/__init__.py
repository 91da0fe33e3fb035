"""The routes of the HTTP server."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import tornado.web
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from handlers.api.admission import has_malformed_host
from handlers.api.context import ApiContext
from handlers.api.handler import ApiHandler
from handlers.api.leads import OLDER_PATH, PATH, LeadsHandler
from handlers.base import NotFound, log_request
from handlers.docs import Docs, OpenApi
from handlers.errors import BadRequest
from handlers.health import Livez, Readiness, Readyz
from handlers.http_connection import LimitedConnection
from handlers.page_request import BodylessRequest, PageLimiter, Refused
from handlers.static import StaticFiles
from handlers.thank_you import PATH as THANK_YOU
from handlers.thank_you import ThankYouHandler
from models.storage import Storage

API = "/api"
SLASHES = re.compile("//+")
ABSOLUTE_FORM = re.compile("https?://(?P<authority>[^/?#]*)(?P<rest>.*)", re.IGNORECASE)

Page = tuple[str, type[tornado.web.RequestHandler], dict[str, Any]]
MakeApiHandler = Callable[[ApiContext, LimitedConnection], ApiHandler]


@dataclass(frozen=True, slots=True)
class AppContext:
    """The parts of the server that the handlers work with.

    wake: make the dispatcher deliver what is due now. public_url: the server's URL for browsers; '' if none
    is set, and then it is the URL that each request was addressed to.
    """

    api: ApiContext
    readiness: Readiness
    storage: Storage
    wake: Callable[[], None]
    public_url: str


def make_router(context: AppContext) -> "Router":
    """Return the router of a server that takes real leads."""
    return Router(context.api, pages(context))


def pages(context: AppContext, token: str | None = None) -> list[Page]:
    """Return the pages that every server has besides its API. token: for test leads from the reference."""
    return [
        (r"/livez", Livez, {}),
        (r"/readyz", Readyz, {"readiness": context.readiness}),
        (r"/docs/?", Docs, {"public_url": context.public_url, "token": token}),
        (r"/openapi.json", OpenApi, {"public_url": context.public_url}),
        (r"/static/(.*)", StaticFiles, {}),
        (
            THANK_YOU,
            ThankYouHandler,
            {
                "read_building": context.api.read_building,
                "secret": context.api.secret,
                "clock": context.api.clock,
            },
        ),
    ]


class Router(HTTPServerConnectionDelegate):
    """Router of each request to a handler of the API, or to a page."""

    def __init__(
        self,
        api: ApiContext,
        pages: Sequence[Page],
        leads: MakeApiHandler = LeadsHandler,
        unknown: MakeApiHandler = ApiHandler,
        test_bench: str | None = None,
    ) -> None:
        """leads: makes the handler of the two paths of leads; unknown: of any other path under /api.

        test_bench: the pages under this path, such as '/sandbox/', take bodies, and have no limit.
        """
        self._api = api
        self._api_handlers = dict.fromkeys((PATH, OLDER_PATH), leads)
        self._unknown = unknown
        self._test_bench = test_bench
        self._page_limiter = PageLimiter(api)
        self._pages, self._refused = (
            tornado.web.Application(
                routes,
                default_handler_class=default,
                log_function=log_request,
                in_flight=api.in_flight,
                access_log=api.access_log,
            )
            for routes, default in ((list(pages), NotFound), ([], Refused))
        )

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Return a delegate that chooses the handler once it knows the path; Tornado calls this."""

        connection = cast(LimitedConnection, request_conn)

        def route(start_line: RequestStartLine, headers: HTTPHeaders) -> HTTPMessageDelegate:
            path = start_line.path.partition("?")[0]
            make = self._api_handlers.get(path)
            if make is None:
                path = SLASHES.sub("/", path)
                if path != API and not path.startswith(API + "/"):
                    return self._page(server_conn, connection, start_line, headers)
                path = path.removesuffix("/").removesuffix(".json")
                make = self._api_handlers.get(path, self._unknown)
            return make(self._api, connection)

        return _RoutedRequest(route)

    def _page(
        self,
        server_conn: object,
        connection: LimitedConnection,
        start_line: RequestStartLine,
        headers: HTTPHeaders,
    ) -> HTTPMessageDelegate:
        takes_bodies = self._test_bench is not None and f"{start_line.path}/".startswith(self._test_bench)
        if not takes_bodies:
            self._page_limiter.judge(connection, start_line, headers)
        if has_malformed_host(start_line, headers):
            connection.refusal = connection.refusal or BadRequest("malformed Host")
            headers["Host"] = "localhost"  # Tornado parses it
        pages = self._pages if connection.refusal is None else self._refused
        page = pages.start_request(server_conn, connection)
        return page if takes_bodies and connection.refusal is None else BodylessRequest(page, connection)


class _RoutedRequest(HTTPMessageDelegate):
    """Passes each part of a request on to the handler of its path, which the headers name."""

    def __init__(self, route: Callable[[RequestStartLine, HTTPHeaders], HTTPMessageDelegate]) -> None:
        self._route = route

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        if (match := ABSOLUTE_FORM.fullmatch(start_line.path)) is not None:
            start_line = _in_origin_form(start_line, headers, match["authority"], match["rest"])
        self._handler = self._route(start_line, headers)
        return self._handler.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._handler.data_received(chunk)

    def finish(self) -> None:
        self._handler.finish()

    def on_connection_close(self) -> None:
        self._handler.on_connection_close()


def _in_origin_form(
    start_line: RequestStartLine, headers: HTTPHeaders, authority: str, rest: str
) -> RequestStartLine:
    # RFC 9112, 3.2.2: the authority counts, and Host is ignored. A request with several stays malformed, and
    # so does one of HTTP/1.1 without any.
    hosts = headers.get_list("Host")
    if len(hosts) == 1 or (not hosts and start_line.version == "HTTP/1.0"):
        headers["Host"] = authority
    return start_line._replace(path=rest if rest.startswith("/") else f"/{rest}")
