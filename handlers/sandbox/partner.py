"""Owns the demo's partner: an HTTP server in the process that stands in for June Homes."""

from collections.abc import Callable
from typing import Any

import orjson
import tornado.httpserver
import tornado.netutil
import tornado.web


class Partner:
    """Listens on a loopback port of its own, takes every lead, and tells of each."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        application = tornado.web.Application(
            [(r"/leads", _Leads, {"tell": tell})], log_function=lambda handler: None
        )
        self._server = tornado.httpserver.HTTPServer(application)
        self.url = ""

    def start(self) -> None:
        """Listen; `url` is then where leads are POSTed to."""
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        self._server.add_sockets(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/leads"

    async def stop(self) -> None:
        """Stop listening."""
        self._server.stop()
        await self._server.close_all_connections()


class _Leads(tornado.web.RequestHandler):
    def initialize(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell

    def post(self) -> None:
        self._tell(orjson.loads(self.request.body))
        self.set_status(204)
