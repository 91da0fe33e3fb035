"""Owns what is decided of an API request before its body is looked at: limit, CORS, path, method, size."""

import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import tornado.web
from tornado.http1connection import HTTP1Connection

from handlers.api.cors import Allowlist
from handlers.api.throttle import Throttle, Verdict, is_proxy, source_address
from handlers.base import STANDARD_METHODS, Handler
from handlers.errors import BadRequest, Refusal, Unavailable
from models.clock import Clock
from models.database import StorageError
from models.intake import KeyReused, Recorded, Submission
from models.origin import is_origin, origin_of
from models.settings import Network

MAX_BODY_BYTES = 64 * 1024
# A body somewhat too large is read to its end and thrown away: closing on a client that is still sending
# would reset the connection, and it might never see the 413.
MAX_DRAINED_BYTES = 1024 * 1024

THROTTLED = {"message": "throttled", "human_message": "Too many requests. Please try again later."}
EXPOSED = "Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, X-Request-Id"
DIGITS = re.compile("[0-9]+")


@dataclass(frozen=True, slots=True)
class Api:
    """What the API's handlers work with."""

    record_lead: Callable[[Submission], Awaitable[Recorded | KeyReused]]
    throttle: Throttle
    allowlist: Allowlist
    trusted_proxies: tuple[Network, ...]
    clock: Clock


class _AnyMethod(tuple[str, ...]):
    def __contains__(self, method: object) -> bool:
        return True


@tornado.web.stream_request_body
class ApiHandler(Handler):
    """Every path under /api/. A subclass names its methods and responds to them.

    The request is judged when its headers are in; a refusal is sent once the body has arrived and been
    thrown away, so that the connection stays usable.
    """

    # Tornado refuses a method that is not in here before `prepare`, uncounted and without CORS headers.
    SUPPORTED_METHODS = _AnyMethod()
    methods: tuple[str, ...] = ()

    def initialize(self, api: Api) -> None:
        self.api = api
        self.body = bytearray()
        self._received = 0
        self._refusal: Refusal | None = None
        self._stand("Vary", "Origin")

    async def prepare(self) -> None:
        try:
            await self._admit()
        except Refusal as refusal:
            self._refusal = refusal
        except StorageError:
            self._refusal = Unavailable("the server can't read its data now", 5)
        if isinstance(self.request.connection, HTTP1Connection):
            # The size is judged here; Tornado's own limit would add a bare 400 to the 413.
            self.request.connection.set_max_body_size(sys.maxsize)
        announced = self.request.headers.get("Content-Length", "0")
        if not DIGITS.fullmatch(announced):
            raise self._refusal or BadRequest("malformed Content-Length")
        size = int(announced) if len(announced) <= 18 else sys.maxsize
        if size > MAX_BODY_BYTES:
            self._refusal = self._refusal or _too_large()
        if self._refusal and (size > MAX_DRAINED_BYTES or self.request.method not in STANDARD_METHODS):
            raise self._refusal

    async def _admit(self) -> None:
        # In this order: an answered preflight doesn't count (C28), everything else does; over the limit
        # nothing more is looked at, and the buildings aren't read (C29); a refused origin learns no more.
        request = self.request
        origin = request.headers.get("Origin")
        allowlist = self.api.allowlist
        self.source = source_address(
            request.remote_ip or "", request.headers.get("X-Forwarded-For"), self.api.trusted_proxies
        )
        preflight = self._is_preflight()
        addressed_to = self._addressed_to() if origin is not None else None
        known = origin is not None and allowlist.knows(origin, addressed_to)
        if origin is not None and known:
            self._allow(origin)
        verdict = self._take(0 if preflight and known else 1)
        if not verdict.allowed:
            raise Refusal(429, THROTTLED, Retry_After=str(verdict.retry_after))
        if origin is not None and not known:
            if not await allowlist.allows(origin, addressed_to):
                # An origin is a host's name; what isn't one could be anything, and is not logged.
                raise Refusal(
                    403,
                    f"origin {origin} is not registered for any building",
                    quotes_client=not is_origin(origin),
                )
            self._allow(origin)
            if preflight:
                self._take(-1)
        if not preflight:
            self._check_route()

    def _is_preflight(self) -> bool:
        return self.request.method == "OPTIONS" and "Origin" in self.request.headers

    def _take(self, tokens: int) -> Verdict:
        verdict = self.api.throttle.take(self.source, self.api.clock.monotonic_ns(), tokens)
        self._stand("RateLimit-Limit", str(verdict.limit))
        self._stand("RateLimit-Remaining", str(verdict.remaining))
        self._stand("RateLimit-Reset", str(verdict.reset))
        return verdict

    def _allow(self, origin: str) -> None:
        self._stand("Access-Control-Allow-Origin", origin)
        self._stand("Access-Control-Expose-Headers", EXPOSED)

    def _stand(self, name: str, value: str) -> None:
        self.standing_headers[name] = value
        self.set_header(name, value)

    def _check_route(self) -> None:
        if not self.methods:
            raise Refusal(404, "there is no such path; leads are POSTed to /api/v1/website_leads")
        allowed = (*self.methods, "OPTIONS")
        if self.request.method not in allowed:
            allow = ", ".join(allowed)
            said = f"{self.request.method} is not allowed here; allowed: {allow}"
            raise Refusal(405, said, quotes_client=True, Allow=allow)

    def _addressed_to(self) -> str | None:
        protocol = self.request.protocol
        forwarded = self.request.headers.get("X-Forwarded-Proto")
        if forwarded is not None and is_proxy(self.request.remote_ip or "", self.api.trusted_proxies):
            protocol = forwarded.rpartition(",")[2].strip().lower()
        try:
            return origin_of(f"{protocol}://{self.request.host}")
        except ValueError:
            return None  # a Host that no browser has sent

    def data_received(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > MAX_BODY_BYTES:
            self._refusal = self._refusal or _too_large()
        if self._refusal is None:
            self.body += chunk
        else:
            self.body.clear()
        if self._refusal is not None and self._received > MAX_DRAINED_BYTES:
            self.send_error(self._refusal.status_code, exc_info=(Refusal, self._refusal, None))

    async def _respond(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self._is_preflight():
            self.set_header("Access-Control-Allow-Methods", "POST, OPTIONS")
            self.set_header("Access-Control-Allow-Headers", "Content-Type, Accept, Idempotency-Key")
            self.set_header("Access-Control-Max-Age", "300")
        if self.request.method == "OPTIONS":
            self.set_header("Allow", ", ".join((*self.methods, "OPTIONS")))
            self.clear_header("Content-Type")
            self.set_status(204)
        else:
            await self.respond()

    get = head = post = delete = patch = put = options = _respond

    async def respond(self) -> None:
        """Answer an admitted request of one of the handler's methods; its body is in `body`."""
        raise NotImplementedError


class UnknownPath(ApiHandler):
    """Any path under /api/ that isn't one: counted and refused like the others."""


def _too_large() -> Refusal:
    return Refusal(413, f"the body is too large (maximum is {MAX_BODY_BYTES} bytes)")
