"""Owns the pages for those who integrate: the API's description."""

from handlers.api.openapi import document
from handlers.base import Handler


class OpenApi(Handler):
    """GET /openapi.json: the API's description, for this server."""

    route = "/openapi.json"

    def get(self) -> None:
        self.set_header(
            "Access-Control-Allow-Origin", "*"
        )  # for tools that run in a browser; it is no secret
        self.answer(200, document(f"{self.request.protocol}://{self.request.host}"))
