"""Owns what every answer has in common: the request's id, the one error renderer, the access log."""

import json
import logging
import uuid
from http import HTTPStatus
from typing import Any

import tornado.web

from handlers.errors import Refusal

log = logging.getLogger("leads.http")

STANDARD_METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")


class Handler(tornado.web.RequestHandler):
    """A handler that answers in JSON, errors too."""

    route = "(unknown)"  # for the log: a path from outside could hold anything

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.request_id = uuid.uuid4().hex
        # Tornado clears all headers before it renders an error; these are put back.
        self.standing_headers = {"X-Request-Id": self.request_id, "X-Content-Type-Options": "nosniff"}
        self.log_fields: dict[str, Any] = {}
        super().__init__(*args, **kwargs)
        self._in_flight: set[Handler] = self.application.settings["in_flight"]
        self._in_flight.add(self)

    def on_finish(self) -> None:
        self._in_flight.discard(self)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._in_flight.discard(self)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        for name, value in self.standing_headers.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """None: no answer here is worth caching."""

    def data_received(self, chunk: bytes) -> None:
        """Only handlers that stream their request's body are given it."""

    def answer(self, status: int, body: Any) -> None:
        """Finish with this status and this value as JSON."""
        self.set_status(status)
        self.finish(json.dumps(body, ensure_ascii=False))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Render any refusal or failure: {"error": message}."""
        error = kwargs.get("exc_info", (None, None))[1]
        message: str | dict[str, str]
        if isinstance(error, Refusal):
            message = error.message
            if not error.quotes_client and isinstance(message, str):
                self.log_fields["refused"] = message
            for name, value in error.headers.items():
                self.set_header(name, value)
        elif status_code >= 500:
            message = f"the server failed; its log has the details under request {self.request_id}"
        else:
            message = HTTPStatus(status_code).phrase.lower()
        self.answer(status_code, {"error": message})

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, tornado.web.HTTPError):
            log.error("failed", extra={"request": self.request_id}, exc_info=(typ, value, tb))


class NotFound(Handler):
    """What is answered where nothing is."""

    def prepare(self) -> None:
        raise Refusal(404, "there is nothing here; leads are POSTed to /api/v1/website_leads")


def log_answer(handler: tornado.web.RequestHandler) -> None:
    """Write the access log's line: no path from outside, no address, no body. For Tornado's log_function."""
    method = handler.request.method
    fields: dict[str, Any] = {"method": method if method in STANDARD_METHODS else "(other)"}
    if isinstance(handler, Handler):
        fields = {"request": handler.request_id, **fields, "route": handler.route, **handler.log_fields}
    fields |= {"status": handler.get_status(), "ms": round(1e3 * handler.request.request_time(), 1)}
    log.info("answered", extra=fields)
