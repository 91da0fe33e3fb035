"""Base handler of the sandbox's own API: which pages may call it, JSON bodies, and lists to wait for."""

import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from handlers.base import Handler
from handlers.errors import ApiError, BadRequest
from handlers.sandbox.environment import SandboxEnvironment

MAX_WAIT_SECONDS = 60.0


class SandboxHandler(Handler):
    """Request handler of the sandbox's own API."""

    def initialize(self, environment: SandboxEnvironment) -> None:
        self.environment = environment
        self.route = re.sub("[0-9]+", "N", self.request.path)

    def prepare(self) -> None:
        # No website's page may call the sandbox through a developer's browser: neither from its own origin,
        # nor under a domain name of its own that it points to this address (DNS rebinding).
        if not is_local_name(self.request.host_name):
            raise ApiError(403, "address the sandbox by an IP address, localhost, or a name without dots")
        origin = self.request.headers.get("Origin")
        if origin is not None and origin != f"{self.request.protocol}://{self.request.host}":
            raise ApiError(403, "the sandbox's API can't be called by the pages of other websites")

    def json_body(self) -> dict[str, Any]:
        """Return the body's JSON object; {} if there is no body. Raises BadRequest."""
        try:
            body = orjson.loads(self.request.body or b"{}")
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"malformed JSON: {error}") from None
        if not isinstance(body, dict):
            raise BadRequest("the body is not a JSON object")
        return body

    def number_argument(self, name: str, default: float, maximum: float) -> float:
        """Return the query argument of this name, from 0 to the maximum. Raises BadRequest."""
        text = self.get_query_argument(name, "")
        try:
            value = float(text) if text else default
        except ValueError:
            value = -1.0
        if not 0 <= value <= maximum:
            raise BadRequest(f"{name} is a number from 0 to {maximum:g}")
        return value

    async def answer_list(self, name: str, query: Callable[[], Awaitable[list[Any]]]) -> None:
        """Respond with the query's items under this name.

        With ?wait=SECONDS, first wait until there are ?count= items (default 1). If time is up with fewer,
        raise a 404.
        """
        await self.environment.recorder.wait_until_recorded()
        seconds = self.number_argument("wait", 0, MAX_WAIT_SECONDS)
        count = int(self.number_argument("count", 1 if seconds else 0, 1_000))
        found = await self.environment.request_log.wait_for(query, count, seconds)
        if found is None:
            present = len(await query())
            raise ApiError(
                404, f"after {seconds:g} s there are {present} {name.replace('_', ' ')}, not {count}"
            )
        self.write_json(200, {name: found, "era": self.environment.request_log.generation})


def is_local_name(host: str) -> bool:
    """Return False for a name that could be registered on the Internet and pointed to this address."""
    try:
        ipaddress.ip_address(host.strip("[]"))
        return True
    except ValueError:
        return "." not in host or host.endswith(".localhost")
