"""Every way in: the one route table."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import tornado.web
from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from handlers.api.handler import ApiContext, ApiHandler
from handlers.api.leads import OLDER_PATH, PATH, Leads
from handlers.base import NotFound, log_page
from handlers.docs import Docs, OpenApi
from handlers.health import Livez, Readiness, Readyz
from handlers.static import StaticFiles
from models.storage import Storage

API = "/api"

Page = tuple[str, type[tornado.web.RequestHandler], dict[str, Any]]
MakeApiHandler = Callable[[ApiContext, HTTP1Connection], ApiHandler]


@dataclass(frozen=True, slots=True)
class AppContext:
    """What the ways in work with. wake: has what is due leave now. public_url: where browsers reach the
    server; '' if that is where they say they do.
    """

    api: ApiContext
    readiness: Readiness
    storage: Storage
    wake: Callable[[], None]
    public_url: str


def make_router(context: AppContext) -> "Router":
    """The way in of every server."""
    return Router(context.api, pages(context))


def pages(context: AppContext, token: str | None = None) -> list[Page]:
    """What every server answers besides its API. token: one that its reference may be tried with."""
    return [
        (r"/livez", Livez, {}),
        (r"/readyz", Readyz, {"readiness": context.readiness}),
        (r"/docs/?", Docs, {"public_url": context.public_url, "token": token}),
        (r"/openapi.json", OpenApi, {"public_url": context.public_url}),
        (r"/static/(.*)", StaticFiles, {}),
    ]


class Router(HTTPServerConnectionDelegate):
    """Sends each request on: to an exchange of the API, or to the pages of the rest."""

    def __init__(
        self,
        api: ApiContext,
        pages: Sequence[Page],
        leads: MakeApiHandler = Leads,
        unknown: MakeApiHandler = ApiHandler,
    ) -> None:
        """leads, unknown: make the exchange on the path of leads, and on any other under /api."""
        self._api = api
        self._exchanges = dict.fromkeys((PATH, OLDER_PATH), leads)  # with or without a slash at the end
        self._unknown = unknown
        self._pages = tornado.web.Application(
            list(pages), default_handler_class=NotFound, log_function=log_page, in_flight=api.in_flight
        )

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Tornado calls this for each request, before it knows of which path."""

        def choose(path: str) -> HTTPMessageDelegate:
            if path != API and not path.startswith(API + "/"):
                return self._pages.start_request(server_conn, request_conn)
            make = self._exchanges.get(path.removesuffix("/"), self._unknown)
            return make(self._api, cast(HTTP1Connection, request_conn))

        return _RoutedRequest(choose)


class _RoutedRequest(HTTPMessageDelegate):
    """Becomes, once its headers are in, what the path asks for."""

    def __init__(self, choose: Callable[[str], HTTPMessageDelegate]) -> None:
        self._choose = choose

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        self._chosen = self._choose(start_line.path.partition("?")[0])
        return self._chosen.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._chosen.data_received(chunk)

    def finish(self) -> None:
        self._chosen.finish()

    def on_connection_close(self) -> None:
        self._chosen.on_connection_close()
