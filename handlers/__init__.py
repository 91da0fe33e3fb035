"""Every way in: the one route table."""

from typing import Any

import tornado.web

from handlers.api.base import Api, UnknownPath
from handlers.api.leads import LeadsHandler
from handlers.base import NotFound, log_answer
from handlers.health import Livez, Readiness, Readyz


def make_application(api: Api, readiness: Readiness) -> tornado.web.Application:
    """The routes of the server. Its setting `in_flight` holds the requests that are being answered."""
    routes: list[tuple[str, type[tornado.web.RequestHandler], dict[str, Any]]] = [
        (r"/api/v1/(?:website_leads|tour_requests)/?", LeadsHandler, {"api": api}),
        (r"/api(?:/.*)?", UnknownPath, {"api": api}),
        (r"/livez", Livez, {}),
        (r"/readyz", Readyz, {"readiness": readiness}),
    ]
    return tornado.web.Application(
        routes,
        default_handler_class=NotFound,
        log_function=log_answer,
        in_flight=set(),
    )
