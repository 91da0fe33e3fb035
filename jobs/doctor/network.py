"""Checks over the network: the mail server, the partner, the public URL and their certificates.

No mail and no lead is sent. A certificate is read on a connection of its own, since Tornado's client does not
expose it.
"""

import asyncio
import http.client
import re
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import orjson
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError

from jobs.adapter import DeliveryError, one_line, system_error_text
from jobs.daemon_threads import DaemonThreads
from jobs.doctor.machine import CLOCK_TOLERANCE, SET_THE_CLOCK
from jobs.doctor.units import duration_text
from jobs.email.pool import check_login, peer_certificate
from jobs.june_homes import USER_AGENT
from models.check_result import (
    CERTIFICATES,
    CLOCK,
    OK,
    PARTNER,
    PROBLEM,
    PUBLIC_URL,
    SMTP_LOGIN,
    TITLES,
    WARNING,
    CheckResult,
    reporting_failure,
)
from models.clock import Clock
from models.setting_values import SmtpServer
from models.settings import Settings

DEADLINE_SECONDS = 10.0  # for each check; all run at once
MAX_RESPONSE_BYTES = 65_536
QUOTE_LIMIT = 160  # characters
SIGNATURE_TOLERANCE = timedelta(minutes=5)  # Standard Webhooks: a receiver refuses what is signed further off
EXPIRES_SOON = timedelta(days=14)
SEE_CERTIFICATES = f"see '{TITLES[CERTIFICATES]}'"
ALIVE = {"status": "alive"}
UNTRUSTED = re.compile(r"certificate verify failed: (.+?)(?: \(_ssl\.c|$)")

# Verified, in the form that `ssl` gives it; {} if it was not verified; None without encryption.
Certificate = dict[str, Any] | None
FetchCertificate = Callable[[], Awaitable[Certificate]]


def check_network(settings: Settings, clock: Clock, deadline: float = DEADLINE_SECONDS) -> list[CheckResult]:
    """Run the checks of the mail server, the partner, the public URL and their certificates. Raises nothing.

    deadline: in seconds, for each check; all run at once.
    """
    return asyncio.run(_check_all(settings, clock, deadline))


async def _check_all(settings: Settings, clock: Clock, deadline: float) -> list[CheckResult]:
    # The system's resolver may take half a minute for a name, and can't be interrupted.
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    by_check = await asyncio.gather(
        _run_check(SMTP_LOGIN, _check_smtp_login(settings.smtp_url, deadline)),
        _run_check(SMTP_LOGIN, _check_sender(settings)),
        _run_check(PARTNER, _check_partner(settings.june_homes_url, clock, deadline)),
        _run_check(PUBLIC_URL, _check_public_url(settings.public_url, clock, deadline)),
        _run_check(CERTIFICATES, _check_certificates(settings, clock, deadline)),
    )
    return [result for results in by_check for result in results]


async def _run_check(check_id: str, check: Awaitable[list[CheckResult]]) -> list[CheckResult]:
    results: list[CheckResult] = []
    with reporting_failure(check_id, results):
        results += await check
    return results


async def _check_smtp_login(server: SmtpServer | None, deadline: float) -> list[CheckResult]:
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


async def _check_sender(settings: Settings) -> list[CheckResult]:
    if settings.smtp_url is None or settings.sender_fault is None:
        return []
    found = f"{settings.sender_fault}: mail waits in the outbox"
    fix = "set it to an address whose mailbox somebody reads, and start the server again"
    return [CheckResult(SMTP_LOGIN, PROBLEM, found, fix)]


async def _check_partner(url: str, clock: Clock, deadline: float) -> list[CheckResult]:
    if not url:
        return [CheckResult(PARTNER, OK, "not used: LEADS_JUNE_HOMES_URL is not set")]
    place = _place(url)
    try:
        response = await _ask(url, "HEAD", deadline)
    except _NoAnswer as error:
        fix = error.fix or "check LEADS_JUNE_HOMES_URL, and the way there: DNS, firewall"
        return [CheckResult(PARTNER, PROBLEM, f"{place} {error}", fix)]
    code, said = response.code, f"{place} answers {_status(response)}"
    clocks = _check_clock(place, response, clock.now())
    if 300 <= code < 400:
        fix = "set LEADS_JUNE_HOMES_URL to where that leads: redirects are not followed"
        return [CheckResult(PARTNER, WARNING, said, fix), *clocks]
    if code in (404, 410):
        return [CheckResult(PARTNER, WARNING, said, "check the path in LEADS_JUNE_HOMES_URL"), *clocks]
    # A 501 is fine: the server is up, and may only lack HEAD (RFC 9110, 15.6.2).
    if code >= 500 and code != 501:
        fix = "tell June Homes if it lasts; leads for them wait in the outbox"
        return [CheckResult(PARTNER, WARNING, said, fix), *clocks]
    return [CheckResult(PARTNER, OK, f"{place} is there ({_status(response)} to an empty question)"), *clocks]


async def _check_public_url(url: str, clock: Clock, deadline: float) -> list[CheckResult]:
    if not url:
        return [CheckResult(PUBLIC_URL, OK, "not set: pages of registered websites alone may call it")]
    place = _place(url)
    fix = "check that the server runs, its DNS name, and the proxy in front of it; see LEADS_PUBLIC_URL"
    try:
        response = await _ask(f"{url}/livez", "GET", deadline)
    except _NoAnswer as error:
        return [CheckResult(PUBLIC_URL, PROBLEM, f"{place} {error}", error.fix or fix)]
    clocks = _check_clock(place, response, clock.now())
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
    """The server did not answer. The message continues a sentence that begins with the server's name.

    fix: what to do; '' if the error does not say.
    """

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
    client = AsyncHTTPClient(force_instance=True, max_body_size=MAX_RESPONSE_BYTES)
    try:
        return await client.fetch(request, raise_error=False)
    except HTTPTimeoutError:
        raise _NoAnswer("gave no answer in time") from None
    except HTTPStreamClosedError:
        raise _NoAnswer("closed the connection without an answer") from None
    except (OSError, ValueError) as error:  # ValueError: a host name like 'a..b'
        if untrusted := _untrusted(error):
            raise _NoAnswer(untrusted, SEE_CERTIFICATES) from None
        reason = one_line(system_error_text(error), QUOTE_LIMIT)
        raise _NoAnswer(f"can't be reached: {reason}") from None
    finally:
        client.close()


def _untrusted(error: Exception) -> str | None:
    """Return why a certificate is not trusted; None if this is another error."""
    match = UNTRUSTED.search(str(error))
    return match and f"shows a certificate that is not trusted: {one_line(match[1], QUOTE_LIMIT)}"


def _status(response: HTTPResponse) -> str:
    return f"{response.code} {http.client.responses.get(response.code, '')}".strip()


def _check_clock(place: str, response: HTTPResponse, now: datetime) -> list[CheckResult]:
    """Compare the clock with the time in this response; return no result if it gives no current time."""
    if "Age" in response.headers:  # from a cache
        return []
    try:
        at = parsedate_to_datetime(response.headers["Date"])
        off = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    except (KeyError, ValueError, OverflowError):
        return []
    if abs(off) <= CLOCK_TOLERANCE:
        return [CheckResult(CLOCK, OK, f"it goes with that of {place}")]
    found = f"it is {duration_text(off)} {'behind' if off > timedelta() else 'ahead of'} that of {place}"
    tolerance = duration_text(SIGNATURE_TOLERANCE)
    fix = f"{SET_THE_CLOCK}; June Homes refuses what is signed more than {tolerance} off"
    return [CheckResult(CLOCK, PROBLEM if abs(off) > SIGNATURE_TOLERANCE else WARNING, found, fix)]


async def _check_certificates(settings: Settings, clock: Clock, deadline: float) -> list[CheckResult]:
    # By host and port: how to fetch the certificate, and the check that reaches the same server.
    servers: dict[str, tuple[FetchCertificate, str]] = {}
    server = settings.smtp_url
    if server is not None:
        servers[f"{server.host}:{server.port}"] = partial(peer_certificate, server, deadline), SMTP_LOGIN
    for url, reached_by in ((settings.june_homes_url, PARTNER), (settings.public_url, PUBLIC_URL)):
        if urlsplit(url).scheme == "https":
            servers[_place(url)] = partial(_https_certificate, url, deadline), reached_by
    results = await asyncio.gather(
        *(_check_certificate(place, fetch, by, clock) for place, (fetch, by) in servers.items())
    )
    return [result for result in results if result] or [CheckResult(CERTIFICATES, OK, "none is in use")]


async def _check_certificate(
    place: str, fetch: FetchCertificate, reached_by: str, clock: Clock
) -> CheckResult | None:
    try:
        certificate = await fetch()
    except (DeliveryError, OSError, ValueError) as error:  # TimeoutError is an OSError
        if untrusted := _untrusted(error):
            fix = (
                "have it renewed, for that name and with its whole chain; "
                "if its authority is your own, name its file in SSL_CERT_FILE"
            )
            return CheckResult(CERTIFICATES, PROBLEM, f"{place} {untrusted}", fix)
        found = f"that of {place} could not be seen"
        return CheckResult(CERTIFICATES, WARNING, found, f"see '{TITLES[reached_by]}'")
    if certificate is None:
        return None
    if not certificate:
        found = f"that of {place} is not verified: no other machine can listen on loopback"
        return CheckResult(CERTIFICATES, OK, found)
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    left = ends - clock.now()
    found = f"that of {place} ends in {duration_text(left)}, on {ends:%Y-%m-%d}"
    if left < EXPIRES_SOON:
        fix = "have it renewed; if that should happen automatically, find out why it did not"
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
        writer.transport.abort()  # close() would wait for the server's close_notify


def _place(url: str) -> str:
    """Return the host and port of a URL, without its path and password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
