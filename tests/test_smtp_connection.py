"""The connection to the mail server: several addresses of its host, and STARTTLS on loopback."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP
from mail_server import PASSWORD, Mailbox, listening
from test_email_delivery import CONTEXT, send

from jobs.adapter import DeliveryError
from jobs.email import smtp
from jobs.email.adapter import EmailAdapter
from jobs.email.pool import check_login, peer_certificate
from models.outbox.outcomes import FailureKind
from models.setting_values import SmtpServer, parse_smtp_url

HOST = "mail.maple.test"
V4, V6 = ("127.0.0.1", 0), ("::1", 0, 0, 0)

AddressInfo = tuple[int, int, int, str, Any]


def info(listener: socket.socket) -> AddressInfo:
    """Return what a look-up gives for the address of this socket."""
    return (listener.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", listener.getsockname())


class Host:
    """A host name whose look-up gives these addresses; it keeps the attempts to connect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sockets = ExitStack()
        self.addresses: list[AddressInfo] = []
        self.attempts: list[Any] = []
        look_up, connect = socket.getaddrinfo, asyncio.SelectorEventLoop.sock_connect

        def found(host: Any, port: Any, *args: Any, **options: Any) -> Any:
            return self.addresses if host == HOST else look_up(host, port, *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", found)

        async def sock_connect(loop: Any, sock: socket.socket, address: Any) -> None:
            self.attempts.append(address)
            await connect(loop, sock, address)

        monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", sock_connect)

    def refuse(self, address: Any = V4) -> None:
        """Add an address that refuses connections."""
        self.addresses.append(info(self._bound(address)))

    def swallow(self, address: Any = V6) -> None:
        """Add an address that answers no packet: the queue of its socket is full."""
        listener = self._bound(address)
        listener.listen(0)
        for _ in range(4):
            filler = self._sockets.enter_context(socket.socket(listener.family))
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        self.addresses.append(info(listener))

    def unroutable(self) -> None:
        """Add an address that no packet can be sent to."""
        self.accept(25, "255.255.255.255")

    def accept(self, port: int, address: str = "127.0.0.1") -> None:
        """Add this address, on which a server listens."""
        place = (address, port)
        self.addresses.append((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place))

    def _bound(self, address: Any) -> socket.socket:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        bound = self._sockets.enter_context(socket.socket(family))
        bound.bind(address)
        return bound

    def close(self) -> None:
        self._sockets.close()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(monkeypatch)
    yield made
    made.close()


def mail_by(host: Host, before: Callable[[], None], after: Callable[[], None] = lambda: None) -> Mailbox:
    """Deliver a mail by a server whose address is one of several."""
    mailbox = Mailbox()

    async def run() -> None:
        async with listening(lambda: SMTP(mailbox, hostname="mx.test")) as port:
            before()
            host.accept(port)
            after()
            await send(EmailAdapter(SmtpServer(HOST, 25, False, "never", None, None), "leads@maple.test"))

    asyncio.run(run())
    return mailbox


def failure(server: SmtpServer, seconds: float = 20) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        asyncio.run(check_login(server, seconds))
    return caught.value


def test_address_that_swallows_packets_delays_no_mail(host: Host) -> None:
    mailbox = mail_by(host, host.swallow)
    assert len(mailbox.envelopes) == 1
    assert host.attempts == [address[4] for address in host.addresses]


def test_addresses_of_the_other_family_come_in_turn(host: Host) -> None:
    def many() -> None:
        for _ in range(5):
            host.swallow()

    mailbox = mail_by(host, many)
    assert len(mailbox.envelopes) == 1 and len(host.attempts) == 2


def test_first_address_to_accept_is_the_only_one_tried(host: Host) -> None:
    mailbox = mail_by(host, lambda: None, host.refuse)
    assert len(mailbox.envelopes) == 1 and len(host.attempts) == 1


@pytest.mark.parametrize("address", [V4, V6])
def test_next_address_is_tried_after_one_that_refuses(host: Host, address: Any) -> None:
    mailbox = mail_by(host, lambda: host.refuse(address))
    assert len(mailbox.envelopes) == 1 and len(host.attempts) == 2


def test_reason_names_why_each_address_failed(host: Host) -> None:
    server = SmtpServer(HOST, 25, False, "auto", None, None)
    host.refuse()
    assert str(failure(server)) == f"{HOST}:25 failed at connecting: Connection refused"
    host.refuse(V6)
    error = failure(server)
    assert error.failure.kind == FailureKind.UNREACHABLE
    assert str(error) == f"{HOST}:25 failed at connecting: Connection refused"
    host.unroutable()
    reasons = str(failure(server)).removeprefix(f"{HOST}:25 failed at connecting: ").split(", ")
    assert reasons[0] == "Connection refused" and len(reasons) == 2 and "Errno" not in reasons[1]


def test_host_without_addresses_is_unreachable(host: Host) -> None:
    error = failure(SmtpServer(HOST, 25, False, "auto", None, None))
    assert error.failure.kind == FailureKind.UNREACHABLE
    assert str(error) == f"{HOST}:25 failed at connecting: the host has no address"


def test_all_addresses_silent_end_at_the_deadline(host: Host) -> None:
    host.swallow()
    host.swallow(V4)
    error = failure(SmtpServer(HOST, 25, False, "auto", None, None), 1)
    assert error.failure.kind == FailureKind.UNREACHABLE and "in time at connecting" in str(error)
    assert len(host.attempts) == 2


# ---- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def shown(by: trustme.CA, name: str = "127.0.0.1", days: float = 60) -> ssl.SSLContext:
    """Return a server's TLS with a certificate for this name that ends in so many days."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    by.issue_cert(name, not_after=datetime.now(UTC) + timedelta(days=days)).configure_cert(context)
    return context


def unverifiable(kind: str, authority: trustme.CA) -> ssl.SSLContext:
    match kind:
        case "self-signed":
            return shown(trustme.CA())
        case "expired":
            return shown(authority, days=-1)
        case _:
            return shown(authority, "debian.invalid")


UNVERIFIABLE = ["self-signed", "expired", "of another name"]


def deliver(
    tls: ssl.SSLContext,
    *,
    address: str = "127.0.0.1",
    host: str | None = None,
    starttls: str = "auto",
    implicit: bool = False,
    user: str | None = None,
    **options: Any,
) -> Mailbox:
    """Deliver a mail by a server with this certificate, and return its mailbox."""
    mailbox = Mailbox()
    if not implicit:
        options["tls_context"] = tls

    async def run() -> None:
        def server() -> SMTP:
            return SMTP(mailbox, hostname="mx.test", authenticator=mailbox.authenticate, **options)

        async with listening(server, address, tls if implicit else None) as port:
            settings = SmtpServer(host or address, port, implicit, starttls, user, PASSWORD)
            await send(EmailAdapter(settings, "leads@maple.test"))

    asyncio.run(run())
    return mailbox


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.7.6", "::1"])
def test_loopback_server_with_a_self_signed_certificate_gets_mail(address: str) -> None:
    assert deliver(shown(trustme.CA()), address=address).encrypted == [True]


@pytest.mark.parametrize("kind", UNVERIFIABLE)
def test_loopback_server_with_no_valid_certificate_gets_mail(kind: str, authority: trustme.CA) -> None:
    assert deliver(unverifiable(kind, authority)).encrypted == [True]


@pytest.mark.parametrize("host", ["localhost", "::ffff:127.0.0.1", "127.1"])
def test_loopback_server_is_known_by_its_address_not_its_name(host: str) -> None:
    assert deliver(shown(trustme.CA()), host=host).encrypted == [True]


@pytest.mark.parametrize("kind", UNVERIFIABLE)
@pytest.mark.parametrize("mode", ["always", "smtps"])
def test_loopback_certificate_is_verified_where_tls_is_asked_for(
    mode: str, kind: str, authority: trustme.CA
) -> None:
    options: Any = {"implicit": True} if mode == "smtps" else {"starttls": "always"}
    with pytest.raises(DeliveryError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        deliver(unverifiable(kind, authority), **options)
    assert caught.value.failure.kind == FailureKind.UNREACHABLE


@pytest.mark.parametrize("kind", UNVERIFIABLE)
def test_certificate_is_verified_off_loopback(kind: str, authority: trustme.CA, other_address: str) -> None:
    with pytest.raises(DeliveryError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        deliver(unverifiable(kind, authority), address=other_address)
    assert caught.value.failure.kind == FailureKind.UNREACHABLE


def test_loopback_server_with_login_only_under_tls_gets_mail() -> None:
    mailbox = deliver(shown(trustme.CA()), user="leads", auth_require_tls=True)
    assert mailbox.logins and mailbox.encrypted == [True]


def test_loopback_server_that_demands_tls_gets_mail() -> None:
    assert deliver(shown(trustme.CA()), require_starttls=True).encrypted == [True]


@pytest.mark.parametrize("implicit", [True, False], ids=["smtps", "STARTTLS"])
def test_certificate_is_verified_for_the_host_name(
    implicit: bool, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo
    names: list[str | None] = []

    def found(host: Any, *args: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host == HOST else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    tls = shown(authority, HOST)
    tls.sni_callback = lambda connection, name, context: names.append(name)
    deliver(tls, host=HOST, address="127.0.0.1", implicit=implicit, starttls="always")
    assert names == [HOST]


class BrokenTls:
    """A loopback server whose STARTTLS fails; without it, the server takes mail."""

    def __init__(self, *replies: bytes) -> None:
        self.replies = replies
        self.connections = 0
        self.mailbox = Mailbox()

    def session(self) -> SMTP:
        broken = self
        self.connections += 1

        class Session(SMTP):
            async def smtp_STARTTLS(self, arg: str) -> None:
                for reply in broken.replies:
                    self._writer.write(reply)
                    await self._writer.drain()
                if not broken.replies or not broken.replies[-1]:
                    self._writer.close()

        return Session(
            self.mailbox,
            hostname="mx.test",
            tls_context=shown(trustme.CA()),
            authenticator=self.mailbox.authenticate,
            auth_require_tls=False,
        )

    def deliver(self, starttls: str = "auto", address: str = "127.0.0.1", user: str | None = None) -> None:
        async def run() -> None:
            async with listening(self.session, address) as port:
                settings = SmtpServer(address, port, False, starttls, user, PASSWORD if user else None)
                await send(EmailAdapter(settings, "leads@maple.test"), CONTEXT)

        asyncio.run(run())


BROKEN = {
    "454": [b"454 4.7.0 TLS not available due to local problem\r\n"],
    "502": [b"502 5.5.1 not implemented\r\n"],
    "421": [b"421 4.3.0 not now\r\n", b""],
    "garbage": [b"220 go on\r\n", b"what is this?\r\n" * 20],
    "garbage with the reply": [b"220 go on\r\nwhat?\r\n" * 3],
    "closed": [b"220 go on\r\n", b""],
    "closed without a reply": [],
    "no reply that SMTP knows": [b"TLS?\r\n"],
}


@pytest.mark.parametrize("replies", BROKEN.values(), ids=BROKEN)
def test_broken_starttls_on_loopback_is_left_out(
    replies: list[bytes], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "LOOPBACK_TLS_SECONDS", 0.5)
    server = BrokenTls(*replies)
    with caplog.at_level(logging.WARNING, "leads.email"):
        server.deliver()
    assert server.mailbox.encrypted == [False] and server.connections == 2
    [record] = [record for record in caplog.records if record.name == "leads.email"]
    assert "STARTTLS failed on loopback" in record.message


@pytest.mark.parametrize("replies", BROKEN.values(), ids=BROKEN)
def test_password_is_not_sent_after_a_broken_starttls(
    replies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "LOOPBACK_TLS_SECONDS", 0.5)
    server = BrokenTls(*replies)
    with pytest.raises(DeliveryError, match="failed at STARTTLS, and the password is not sent") as caught:
        server.deliver(user="leads")
    assert caught.value.failure.kind == FailureKind.NEEDS_OPERATOR
    assert "mend its TLS or, at your own risk, use starttls=never" in str(caught.value)
    assert not server.mailbox.logins and not server.mailbox.envelopes


def test_password_is_sent_where_starttls_is_broken_and_never_used() -> None:
    server = BrokenTls(*BROKEN["454"])
    server.deliver("never", user="leads")
    assert server.mailbox.logins and server.mailbox.encrypted == [False]


def test_loopback_server_without_starttls_gets_the_password() -> None:
    mailbox = Mailbox()

    async def run() -> None:
        def server() -> SMTP:
            return SMTP(mailbox, authenticator=mailbox.authenticate, auth_require_tls=False)

        async with listening(server) as port:
            settings = SmtpServer("127.0.0.1", port, False, "auto", "leads", PASSWORD)
            await send(EmailAdapter(settings, "leads@maple.test"))

    asyncio.run(run())
    assert mailbox.logins and mailbox.encrypted == [False]


def test_silent_handshake_on_loopback_leaves_time_for_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "LOOPBACK_TLS_SECONDS", 0.1)
    server = BrokenTls(b"220 go on\r\n")
    server.deliver()
    assert server.mailbox.encrypted == [False]


@pytest.mark.parametrize("replies", BROKEN.values(), ids=BROKEN)
def test_broken_starttls_off_loopback_stops_the_mail(replies: list[bytes], other_address: str) -> None:
    server = BrokenTls(*replies)
    with pytest.raises(DeliveryError) as caught:
        server.deliver(address=other_address)
    assert caught.value.failure.kind == FailureKind.UNREACHABLE
    assert not server.mailbox.envelopes and server.connections == 1


def test_second_connection_off_loopback_is_not_plain(host: Host, other_address: str) -> None:
    local, remote = BrokenTls(*BROKEN["closed"]), BrokenTls(*BROKEN["closed"])

    async def run() -> None:
        async with listening(remote.session, other_address) as other:

            def session() -> SMTP:
                host.addresses.clear()
                host.accept(other, other_address)
                return local.session()

            async with listening(session) as port:
                host.accept(port)
                settings = SmtpServer(HOST, 25, False, "auto", None, None)
                await send(EmailAdapter(settings, "leads@maple.test"))

    with pytest.raises(DeliveryError):
        asyncio.run(run())
    assert remote.connections == 1 and not remote.mailbox.envelopes


def test_certificate_on_loopback_is_told_apart_from_a_verified_one(authority: trustme.CA) -> None:
    async def certificate(tls: ssl.SSLContext | None, starttls: str = "auto") -> dict[str, Any] | None:
        async with listening(lambda: SMTP(Mailbox(), tls_context=tls)) as port:
            return await peer_certificate(SmtpServer("127.0.0.1", port, False, starttls, None, None), 20)

    assert asyncio.run(certificate(shown(trustme.CA()))) == {}
    assert asyncio.run(certificate(None)) is None
    verified = asyncio.run(certificate(shown(authority), "always"))
    assert verified and "notAfter" in verified


def test_percent_encoded_password_reaches_the_server() -> None:
    mailbox = Mailbox(password="p#w/?@[%")

    async def run() -> bool:
        def server() -> SMTP:
            return SMTP(mailbox, authenticator=mailbox.authenticate, auth_require_tls=False)

        async with listening(server) as port:
            parsed = parse_smtp_url(f"smtp://us%40er:p%23w%2F%3F%40%5B%25@127.0.0.1:{port}")
            assert parsed is not None
            return await check_login(parsed, 20)

    assert asyncio.run(run()) is False
    assert mailbox.logins == [(b"us@er", b"p#w/?@[%")]
