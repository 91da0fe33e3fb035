"""The partner of the tests: an HTTP server that takes leads as June Homes does."""

import tornado.web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets


class PartnerServer:
    """A real HTTP server. It answers 200, unless a test sets something else."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str], bytes]] = []  # headers and body of each request
        self.replies: list[tuple[int, dict[str, str]]] = []  # status and headers for the next requests
        self.refused: bytes | None = None  # a body that contains this gets this answer
        self.refusal: tuple[int, dict[str, str]] = (403, {})
        self.reason: str | None = None  # the reason phrase of the status line
        self.answer = b""

    def start(self) -> None:
        """Listen on a free port."""
        partner = self

        class Leads(tornado.web.RequestHandler):
            def post(self) -> None:
                partner.calls.append((dict(self.request.headers), self.request.body))
                status, headers = partner.replies.pop(0) if partner.replies else (200, {})
                if partner.refused and partner.refused in self.request.body:
                    status, headers = partner.refusal
                self.set_status(status, partner.reason)
                self.write(partner.answer)
                for name, value in headers.items():
                    self.set_header(name, value)

        self._server = HTTPServer(tornado.web.Application([(r"/leads", Leads)], log_function=lambda h: None))
        sockets = bind_sockets(0, "127.0.0.1")
        self._server.add_sockets(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/leads"

    async def stop(self) -> None:
        """Stop listening, and close all connections."""
        self._server.stop()
        await self._server.close_all_connections()
