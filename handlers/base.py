"""Base of the handlers outside of the API: the request's id, and errors in JSON."""

import json
import logging
import uuid
from http import HTTPStatus
from typing import Any

import tornado.web

from handlers.access_log import AccessLog
from handlers.errors import ApiError, InternalError

log = logging.getLogger("leads.http")


class Handler(tornado.web.RequestHandler):
    """A handler whose errors, and by default its answers, are JSON."""

    route = "(unknown)"  # for the log, which holds no path that a client made up

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

    def compute_etag(self) -> str | None:
        """Return None: no answer is cached."""

    def data_received(self, chunk: bytes) -> None:
        """Do nothing: Tornado calls this only on handlers that stream the body."""

    def own_url(self) -> str:
        """Return the URL of the server that the request was addressed to."""
        return f"{self.request.protocol}://{self.request.host}"

    def write_json(self, status: int, body: Any) -> None:
        """Finish with a status, and a value as JSON."""
        self.set_status(status)
        self.finish(json.dumps(body, ensure_ascii=False))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Finish with an error as JSON: {"error": message}."""
        error = kwargs.get("exc_info", (None, None))[1]
        if not isinstance(error, ApiError):
            if status_code >= 500:
                error = InternalError(self.request_id)
            else:
                error = ApiError(status_code, HTTPStatus(status_code).phrase.lower())
        if error.loggable is not None:
            self.log_fields["refused"] = error.loggable
        if status_code == 405:
            self.set_header("Allow", ", ".join(self._methods()))
        for name, value in error.headers.items():
            self.set_header(name, value)
        self.write_json(status_code, error.body)

    def _methods(self) -> list[str]:
        """Return the methods that this handler defines; RequestHandler itself answers each with 405."""
        return [
            method
            for method in self.SUPPORTED_METHODS
            if getattr(type(self), method.lower()) is not getattr(tornado.web.RequestHandler, method.lower())
        ]

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, tornado.web.HTTPError):
            log.error("failed", extra={"request": self.request_id}, exc_info=(typ, value, tb))


class NotFound(Handler):
    """404 for each path that no route has."""

    def prepare(self) -> None:
        raise ApiError(404, "there is nothing here; leads are POSTed to /api/v1/website_leads")


def log_request(handler: tornado.web.RequestHandler) -> None:
    """Write the access-log line of a page: the `log_function` of Tornado's Application."""
    access_log: AccessLog = handler.application.settings["access_log"]
    request, status = handler.request, handler.get_status()
    request_id, route, fields = "-", "(unknown)", {}
    if isinstance(handler, Handler):
        request_id, route, fields = handler.request_id, handler.route, handler.log_fields
    access_log.write(request_id, request.method or "-", route, status, request.request_time(), fields)
