"""Owns what the answers outside of the API have in common: the request's id, the rendering of errors."""

import json
import logging
import uuid
from http import HTTPStatus
from typing import Any

import tornado.web

from handlers.errors import ApiError, InternalError
from handlers.log import log_answer

log = logging.getLogger("leads.http")


class Handler(tornado.web.RequestHandler):
    """A handler that answers in JSON, errors too."""

    route = "(unknown)"  # for the log: a path from outside could hold anything

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.request_id = uuid.uuid4().hex
        self.log_fields: dict[str, Any] = {}
        super().__init__(*args, **kwargs)
        self._in_flight: set[object] = self.application.settings["in_flight"]
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
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("X-Request-Id", self.request_id)

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
        if isinstance(error, ApiError):
            refusal = error
        elif status_code >= 500:
            refusal = InternalError(self.request_id)
        else:
            refusal = ApiError(status_code, HTTPStatus(status_code).phrase.lower())
        if refusal.loggable is not None:
            self.log_fields["refused"] = refusal.loggable
        for name, value in refusal.headers.items():
            self.set_header(name, value)
        self.answer(status_code, refusal.body)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, tornado.web.HTTPError):
            log.error("failed", extra={"request": self.request_id}, exc_info=(typ, value, tb))


class NotFound(Handler):
    """What is answered where nothing is."""

    def prepare(self) -> None:
        raise ApiError(404, "there is nothing here; leads are POSTed to /api/v1/website_leads")


def log_page(handler: tornado.web.RequestHandler) -> None:
    """Write the access log's line. For Tornado's log_function."""
    request, status = handler.request, handler.get_status()
    request_id, route, fields = "-", "(unknown)", {}
    if isinstance(handler, Handler):
        request_id, route, fields = handler.request_id, handler.route, handler.log_fields
    log_answer(request_id, request.method or "-", route, status, request.request_time(), fields)
