"""The sandbox's partner: an HTTP server in the sandbox's process that stands in for June Homes."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import tornado.httpserver
import tornado.netutil
import tornado.web

from handlers.sandbox.faults import CUT, PARTNER, Faults


class Partner:
    """HTTP server on a free loopback port. It accepts and ignores calls about leads that a reset deleted."""

    def __init__(
        self,
        has_lead: Callable[[str | None], bool],
        on_call: Callable[[dict[str, Any]], None],
        faults: Faults,
    ) -> None:
        """has_lead: whether the request of this id created a lead. on_call: is called with each call."""
        options = {"has_lead": has_lead, "on_call": on_call, "faults": faults}
        application = tornado.web.Application(
            [(r"/leads", _PartnerHandler, options)], log_function=lambda handler: None
        )
        self._server = tornado.httpserver.HTTPServer(application)
        self.url = ""

    def start(self) -> None:
        """Listen, and set `url` to the address that takes POSTed leads."""
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        self._server.add_sockets(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/leads"

    async def stop(self) -> None:
        """Stop listening, and close every connection."""
        self._server.stop()
        await self._server.close_all_connections()


class _PartnerHandler(tornado.web.RequestHandler):
    def initialize(
        self,
        has_lead: Callable[[str | None], bool],
        on_call: Callable[[dict[str, Any]], None],
        faults: Faults,
    ) -> None:
        self._has_lead, self._on_call, self._faults = has_lead, on_call, faults

    async def post(self) -> None:
        headers = dict(self.request.headers)
        request_id = headers.get("Webhook-Id", "").partition("-")[0] or None
        if not self._has_lead(request_id):
            self.set_status(204)
            return
        fault = self._faults.next_fault(PARTNER)
        if fault is not None and fault.what == CUT:
            self.detach().close()
            return
        if fault is not None and fault.status is None:
            await asyncio.sleep(fault.seconds)
        status = 204 if fault is None or fault.status is None else fault.status
        call = {
            "request_id": request_id,
            "headers": headers,
            "body": orjson.loads(self.request.body),
            "answered": status,
        }
        if self._has_lead(request_id):  # a reset may have deleted it meanwhile
            self._on_call(call)
        if status in (429, 503) and fault is not None:
            self.set_header("Retry-After", str(round(fault.seconds)))
        self.set_status(status)
