"""Owns the trying of the ways out, and of the way in from outside: each is asked, none is sent anything.

A server's certificate is looked at on a connection of its own, as Tornado's client does not show it.
"""

import asyncio
import http.client
import re
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import orjson
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError

from jobs.adapter import DeliveryError, in_words, one_line
from jobs.doctor.machine import SET_THE_CLOCK, SLIGHTLY_OFF
from jobs.email.smtp import check_login, peer_certificate
from jobs.june_homes import USER_AGENT
from models.check_result import (
    CERTIFICATES,
    CLOCK,
    OK,
    PARTNER,
    PROBLEM,
    PUBLIC_URL,
    SMTP_LOGIN,
    WARNING,
    CheckResult,
    check_failed,
    span,
)
from models.clock import Clock
from models.settings import Settings, SmtpServer

DEADLINE_SECONDS = 10.0  # for each; all are tried at once
LONGEST_ANSWER = 65_536  # bytes
QUOTE_LIMIT = 160
SIGNATURES_REFUSED = timedelta(minutes=5)  # so far off, as Standard Webhooks has it
ENDS_SOON = timedelta(days=14)
SEE_CERTIFICATES = f"see '{CERTIFICATES}'"
ALIVE = {"status": "alive"}
UNTRUSTED = re.compile(r"certificate verify failed: (.+?)(?: \(_ssl\.c|$)")

Certificate = dict[str, Any] | None  # as `ssl` has it, and believed; None: there is no encryption
Look = Callable[[], Awaitable[Certificate]]


def check_network(settings: Settings, clock: Clock, deadline: float = DEADLINE_SECONDS) -> list[CheckResult]:
    """What there is to say of the mail server, the partner, the public URL and their certificates, each tried
    for so many seconds. Nothing is raised: what can't be reached is a finding too.
    """
    return asyncio.run(_check_all(settings, clock, deadline))


class _NotWaitedFor(ThreadPoolExecutor):
    """Threads that the process's end doesn't wait for: the system's resolver may go on for half a minute
    with a name, and can't be interrupted.
    """

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                answer.set_result(work(*args, **kwargs))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return answer


async def _check_all(settings: Settings, clock: Clock, deadline: float) -> list[CheckResult]:
    asyncio.get_running_loop().set_default_executor(_NotWaitedFor())
    found = await asyncio.gather(
        _examined(SMTP_LOGIN, _smtp_login(settings.smtp_url, deadline)),
        _examined(PARTNER, _partner(settings.june_homes_url, clock, deadline)),
        _examined(PUBLIC_URL, _public_url(settings.public_url, clock, deadline)),
        _examined(CERTIFICATES, _certificates(settings, clock, deadline)),
    )
    return [finding for findings in found for finding in findings]


async def _examined(check: str, look: Awaitable[list[CheckResult]]) -> list[CheckResult]:
    try:
        return await look
    except Exception as error:
        return [check_failed(check, error)]


async def _smtp_login(server: SmtpServer | None, deadline: float) -> list[CheckResult]:
    if server is None:
        found = "LEADS_SMTP_URL is not set: mail waits in the outbox"
        return [CheckResult(SMTP_LOGIN, WARNING, found, "set it, and start the server again")]
    try:
        encrypted = await check_login(server, deadline)
    except DeliveryError as error:
        if untrusted := _untrusted(error):
            found = f"{server.host}:{server.port} {untrusted}"
            return [CheckResult(SMTP_LOGIN, PROBLEM, found, SEE_CERTIFICATES)]
        fix = error.hint or "check host, port and encryption in LEADS_SMTP_URL, and the way there"
        return [CheckResult(SMTP_LOGIN, PROBLEM, error.said, fix)]
    did = "answers; LEADS_SMTP_URL has no user" if server.user is None else f"took the login of {server.user}"
    found = f"{server.host}:{server.port} {did}, {'' if encrypted else 'not '}encrypted"
    return [CheckResult(SMTP_LOGIN, OK, found)]


async def _partner(url: str, clock: Clock, deadline: float) -> list[CheckResult]:
    if not url:
        return [CheckResult(PARTNER, OK, "not used: LEADS_JUNE_HOMES_URL is not set")]
    place = _place(url)
    try:
        response = await _ask(url, "HEAD", deadline)
    except _NoAnswer as error:
        fix = error.fix or "check LEADS_JUNE_HOMES_URL, and the way there: DNS, firewall"
        return [CheckResult(PARTNER, PROBLEM, f"{place} {error}", fix)]
    code, said = response.code, f"{place} answers {_status(response)}"
    clocks = _clocks(place, response, clock.now())
    if 300 <= code < 400:
        fix = "set LEADS_JUNE_HOMES_URL to where that leads: redirects are not followed"
        return [CheckResult(PARTNER, WARNING, said, fix), *clocks]
    if code in (404, 410):
        return [CheckResult(PARTNER, WARNING, said, "check the path in LEADS_JUNE_HOMES_URL"), *clocks]
    # 501 as well says that it is there: HEAD may be a method that it doesn't know (RFC 9110, 15.6.2).
    if code >= 500 and code != 501:
        fix = "tell June Homes if it lasts; their leads wait in the outbox"
        return [CheckResult(PARTNER, WARNING, said, fix), *clocks]
    return [CheckResult(PARTNER, OK, f"{place} is there ({_status(response)} to an empty question)"), *clocks]


async def _public_url(url: str, clock: Clock, deadline: float) -> list[CheckResult]:
    if not url:
        return [CheckResult(PUBLIC_URL, OK, "not set: pages of registered websites alone may call it")]
    place = _place(url)
    fix = "check that the server runs, its DNS name, and the proxy in front of it; see LEADS_PUBLIC_URL"
    try:
        response = await _ask(f"{url}/livez", "GET", deadline)
    except _NoAnswer as error:
        return [CheckResult(PUBLIC_URL, PROBLEM, f"{place} {error}", error.fix or fix)]
    clocks = _clocks(place, response, clock.now())
    if response.code != 200:
        if 300 <= response.code < 400:
            fix = "set LEADS_PUBLIC_URL to where that leads: a web page's POST would not get through"
        found = f"{place} answers {_status(response)} to GET {urlsplit(url).path}/livez"
        return [CheckResult(PUBLIC_URL, PROBLEM, found, fix), *clocks]
    if not _says_alive(response.body):
        found = f"{place} answers, but not as this server does"
        return [CheckResult(PUBLIC_URL, PROBLEM, found, fix), *clocks]
    return [CheckResult(PUBLIC_URL, OK, f"{place} leads to a server that is alive"), *clocks]


def _says_alive(body: bytes) -> bool:
    try:
        return bool(orjson.loads(body) == ALIVE)
    except ValueError:
        return False


class _NoAnswer(Exception):
    """There was no answer; the message goes on from the name of who was asked. fix: '' if any may help."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


async def _ask(url: str, method: str, deadline: float) -> HTTPResponse:
    request = HTTPRequest(
        url,
        method=method,
        user_agent=USER_AGENT,
        follow_redirects=False,
        connect_timeout=deadline,
        request_timeout=deadline,
    )
    client = AsyncHTTPClient(force_instance=True, max_body_size=LONGEST_ANSWER)
    try:
        return await client.fetch(request, raise_error=False)
    except HTTPTimeoutError:
        raise _NoAnswer("gave no answer in time") from None
    except HTTPStreamClosedError:
        raise _NoAnswer("closed the connection without an answer") from None
    except (OSError, ValueError) as error:  # ValueError: a host name like 'a..b'
        if untrusted := _untrusted(error):
            raise _NoAnswer(untrusted, SEE_CERTIFICATES) from None
        reason = one_line(in_words(error), QUOTE_LIMIT)
        raise _NoAnswer(f"can't be reached: {reason}") from None
    finally:
        client.close()


def _untrusted(error: Exception) -> str | None:
    """In words, why a certificate was not believed, if that is the error."""
    found = UNTRUSTED.search(str(error))
    return found and f"shows a certificate that is not trusted: {one_line(found[1], QUOTE_LIMIT)}"


def _status(response: HTTPResponse) -> str:
    return f"{response.code} {http.client.responses.get(response.code, '')}".strip()


def _clocks(place: str, response: HTTPResponse, now: datetime) -> list[CheckResult]:
    """What the time in this answer says of ours; nothing if it has none that counts."""
    if "Age" in response.headers:  # out of a cache, and so of another time
        return []
    try:
        at = parsedate_to_datetime(response.headers["Date"])
        off = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    except (KeyError, ValueError, OverflowError):
        return []
    if abs(off) <= SLIGHTLY_OFF:
        return [CheckResult(CLOCK, OK, f"it goes with that of {place}")]
    found = f"it is {span(off)} {'behind' if off > timedelta() else 'ahead of'} that of {place}"
    fix = f"{SET_THE_CLOCK}; June Homes refuses what is signed more than {span(SIGNATURES_REFUSED)} off"
    return [CheckResult(CLOCK, PROBLEM if abs(off) > SIGNATURES_REFUSED else WARNING, found, fix)]


async def _certificates(settings: Settings, clock: Clock, deadline: float) -> list[CheckResult]:
    looks: dict[str, tuple[Look, str]] = {}  # by place: how to see it, and the check that tells of the place
    server = settings.smtp_url
    if server is not None:
        looks[f"{server.host}:{server.port}"] = partial(peer_certificate, server, deadline), SMTP_LOGIN
    for url, check in ((settings.june_homes_url, PARTNER), (settings.public_url, PUBLIC_URL)):
        if urlsplit(url).scheme == "https":
            looks[_place(url)] = partial(_https_certificate, url, deadline), check
    found = await asyncio.gather(
        *(_certificate(place, look, check, clock) for place, (look, check) in looks.items())
    )
    return [finding for finding in found if finding] or [CheckResult(CERTIFICATES, OK, "none is in use")]


async def _certificate(place: str, look: Look, check: str, clock: Clock) -> CheckResult | None:
    try:
        certificate = await look()
    except (DeliveryError, OSError, ValueError) as error:  # TimeoutError is an OSError
        if untrusted := _untrusted(error):
            fix = (
                "have it renewed, for that name and with its whole chain; "
                "if its authority is your own, name its file in SSL_CERT_FILE"
            )
            return CheckResult(CERTIFICATES, PROBLEM, f"{place} {untrusted}", fix)
        return CheckResult(CERTIFICATES, WARNING, f"that of {place} could not be seen", f"see '{check}'")
    if certificate is None:
        return None
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    left = ends - clock.now()
    found = f"that of {place} ends in {span(left)}, on {ends:%Y-%m-%d}"
    if left < ENDS_SOON:
        fix = "have it renewed; where that is to happen by itself, see why it did not"
        return CheckResult(CERTIFICATES, WARNING, found, fix)
    return CheckResult(CERTIFICATES, OK, found)


async def _https_certificate(url: str, deadline: float) -> Certificate:
    parts = urlsplit(url)
    async with asyncio.timeout(deadline):
        _, writer = await asyncio.open_connection(
            parts.hostname, parts.port or 443, ssl=ssl.create_default_context()
        )
    try:
        certificate: Certificate = writer.get_extra_info("peercert")
        return certificate
    finally:
        writer.transport.abort()  # closing would wait for the other side's goodbye


def _place(url: str) -> str:
    """Who is asked: without the path and the password that a URL may have."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
