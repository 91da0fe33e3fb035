"""Owns the refusals: what a handler raises to have the one error renderer answer."""

import tornado.web


class Refusal(tornado.web.HTTPError):
    """An answer other than success. Its message is what the client reads: {"error": message}."""

    def __init__(
        self, status: int, message: str | dict[str, str], quotes_client: bool = False, **headers: str
    ) -> None:
        super().__init__(status)
        self.message = message
        self.quotes_client = quotes_client  # and so is not for the log
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class BadRequest(Refusal):
    """400: the client sent something that can't be used, and the message says what."""

    def __init__(self, message: str, quotes_client: bool = False) -> None:
        super().__init__(400, message, quotes_client)


class Unavailable(Refusal):
    """503: the server can't store anything now; trying again later may work (C32)."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(503, message, Retry_After=str(retry_after_seconds))
