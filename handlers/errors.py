"""Errors of HTTP: what a handler raises in place of an answer, and the body that the client gets."""

from typing import Any

import tornado.web

THROTTLED = {"message": "throttled", "human_message": "Too many requests. Please try again later."}


class ApiError(tornado.web.HTTPError):
    """An answer other than success. The client reads its message as {"error": message}.

    quotes_client: the message repeats what the client sent, so it is not logged. field: the field that it is
    about; maximum: the number of characters that this may have. Headers are given by keyword, with an
    underscore for each hyphen.
    """

    field = ""
    maximum: int | None = None

    def __init__(
        self, status: int, message: str | dict[str, str], quotes_client: bool = False, **headers: str
    ) -> None:
        super().__init__(status)
        self.message = message
        self.quotes_client = quotes_client
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def body(self) -> dict[str, Any]:
        """Body of the answer, ready for JSON."""
        return {"error": self.message}

    @property
    def help_url(self) -> str:
        """Where the reference explains the error, relative to the server (C34)."""
        return f"/docs#field-{self.field}" if self.field else f"/docs#status-{self.status_code}"

    @property
    def loggable(self) -> str | None:
        """Message for the log; None if the message may hold data of the client."""
        return self.message if isinstance(self.message, str) and not self.quotes_client else None


class BadRequest(ApiError):
    """400: the request can't be used, and the message says why."""

    def __init__(
        self, message: str, quotes_client: bool = False, *, field: str = "", maximum: int | None = None
    ) -> None:
        super().__init__(400, message, quotes_client)
        self.field, self.maximum = field, maximum


class TooLarge(ApiError):
    """413: the body is larger than the server accepts (C16)."""

    def __init__(self, maximum_bytes: int) -> None:
        super().__init__(413, f"the body is too large (maximum is {maximum_bytes} bytes)")


class Throttled(ApiError):
    """429: the client sends too much (C29). It gets through after these seconds, at least one."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(429, THROTTLED, Retry_After=str(max(1, retry_after_seconds)))


class Unavailable(ApiError):
    """503: the server can't read or write its data now; a retry may succeed (C32)."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(503, message, Retry_After=str(retry_after_seconds))


class InternalError(ApiError):
    """500: an unexpected exception. The message names the request's id and nothing else (C32)."""

    def __init__(self, request_id: str) -> None:
        super().__init__(500, f"the server failed; its log has the details under request {request_id}")
