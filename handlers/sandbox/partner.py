"""Owns the sandbox's partner: an HTTP server in the process that stands in for June Homes."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import tornado.httpserver
import tornado.netutil
import tornado.web

from handlers.sandbox.faults import CUT, PARTNER, Faults


class Partner:
    """Listens on a loopback port of its own, takes every lead, and tells of each call. What is still on its
    way about a lead that was forgotten is taken in silence.
    """

    def __init__(
        self, is_known: Callable[[str | None], bool], tell: Callable[[dict[str, Any]], None], faults: Faults
    ) -> None:
        """is_known: whether there is a lead that this request brought."""
        environment = {"is_known": is_known, "tell": tell, "faults": faults}
        application = tornado.web.Application(
            [(r"/leads", _Leads, environment)], log_function=lambda handler: None
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
    def initialize(
        self, is_known: Callable[[str | None], bool], tell: Callable[[dict[str, Any]], None], faults: Faults
    ) -> None:
        self._is_known, self._tell, self._faults = is_known, tell, faults

    async def post(self) -> None:
        headers = dict(self.request.headers)
        request_id = headers.get("Webhook-Id", "").partition("-")[0] or None
        if not self._is_known(request_id):
            self.set_status(204)
            return
        fault = self._faults.next_fault(PARTNER)
        if fault is not None and fault.what == CUT:
            self.detach().close()
            return
        if fault is not None and fault.status is None:
            await asyncio.sleep(fault.seconds)
        status = 204 if fault is None or fault.status is None else fault.status
        self._tell(
            {
                "request_id": request_id,
                "headers": headers,
                "body": orjson.loads(self.request.body),
                "answered": status,
            }
        )
        if status in (429, 503) and fault is not None:
            self.set_header("Retry-After", str(round(fault.seconds)))
        self.set_status(status)
