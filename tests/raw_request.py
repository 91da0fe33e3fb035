"""Requests that are sent as they are written, and their answers."""

import io
import json
from email.parser import BytesParser
from email.policy import HTTP

from conftest import ServerHarness


class Answer:
    """An answer as it was sent."""

    def __init__(self, raw: bytes) -> None:
        line, _, rest = raw.partition(b"\r\n")
        head, _, self.body = rest.partition(b"\r\n\r\n")
        self.status = int(line.split()[1])
        self.headers = BytesParser(policy=HTTP).parse(io.BytesIO(head + b"\r\n\r\n"), headersonly=True)

    def is_json_error(self) -> bool:
        """Return True if it is an error like those of the API's, with the headers of every answer."""
        headers = self.headers
        assert headers["Content-Type"] == "application/json" and headers["Server"] is None
        assert headers["X-Content-Type-Options"] == "nosniff" and len(headers["X-Request-Id"]) == 32
        assert headers["Set-Cookie"] is None
        error = json.loads(self.body)
        return list(error) == ["error"] and isinstance(error["error"], str)


async def ask(
    harness: ServerHarness,
    path: str,
    method: str = "GET",
    headers: str = "",
    charset: str = "utf-8",
    host: str = "Host: localhost\r\n",
) -> Answer:
    """Send a request with a target that is sent as it is. headers: lines, each with its line break."""
    request = f"{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n"
    return Answer(await harness.raw(request.encode(charset)))
