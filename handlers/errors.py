"""Owns the refusals: what a handler raises instead of answering, and what is answered then."""

from typing import Any

import tornado.web


class ApiError(tornado.web.HTTPError):
    """An answer other than success. Its message is what the client reads: {"error": message}."""

    def __init__(
        self, status: int, message: str | dict[str, str], quotes_client: bool = False, **headers: str
    ) -> None:
        super().__init__(status)
        self.message = message
        self.quotes_client = quotes_client  # and so is not for the log
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def body(self) -> dict[str, Any]:
        """What the client is answered."""
        return {"error": self.message}

    @property
    def loggable(self) -> str | None:
        """What the log may say of it."""
        return self.message if isinstance(self.message, str) and not self.quotes_client else None


class BadRequest(ApiError):
    """400: the client sent something that can't be used, and the message says what."""

    def __init__(self, message: str, quotes_client: bool = False) -> None:
        super().__init__(400, message, quotes_client)


class Unavailable(ApiError):
    """503: the server can't store anything now; trying again later may work (C32)."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(503, message, Retry_After=str(retry_after_seconds))


class InternalError(ApiError):
    """500: the server failed in a way that nobody foresaw. It tells nothing of the inside."""

    def __init__(self, request_id: str) -> None:
        super().__init__(500, f"the server failed; its log has the details under request {request_id}")
