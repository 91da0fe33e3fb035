"""Delivery of mail by SMTP: sessions, encryption, login, and the kind of failure of each reply."""

import asyncio
import email
import email.policy
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from aiosmtpd.smtp import SMTP
from mail_server import PASSWORD, Mailbox, Script, answers, listening

from jobs.adapter import DeliveryContext, DeliveryError
from jobs.email.adapter import EmailAdapter
from models.lead_dict import LeadForDelivery
from models.outbox.outcomes import FailureKind
from models.setting_values import SmtpServer

LEAD: Any = {
    "id": 1,
    "created_at": "2026-11-23T15:04:05.123456Z",
    "requestor_name": "Jane Doe",
    "requestor_email": "jane@home.test",
    "requestor_phone": "+15551234567",
    "message": ".\r\n..dots",
    "slot": None,
    "sent_slot": None,
    "unit_preference": None,
    "utm_data": None,
    "listing_source": None,
    "listing_source_original_id": None,
    "request_host": None,
    "website": None,
    "sms_consent": False,
    "suspected": None,
}
BUILDING: Any = {
    "name": "The Maple",
    "address_line_one": None,
    "agent_email": "agent@maple.test",
    "time_zone": "UTC",
}
CONTEXT = DeliveryContext("email_1", LEAD, BUILDING)

TRANSIENT, PERMANENT, UNREACHABLE = FailureKind.TRANSIENT, FailureKind.PERMANENT, FailureKind.UNREACHABLE
NEEDS_OPERATOR, AMBIGUOUS = FailureKind.NEEDS_OPERATOR, FailureKind.AMBIGUOUS
REFUSED = FailureKind.REFUSED


def to_agent(agent: str | None) -> DeliveryContext:
    building: Any = {**BUILDING, "agent_email": agent}
    return DeliveryContext("email_1", LEAD, building)


async def send(adapter: EmailAdapter, *contexts: DeliveryContext) -> None:
    """Deliver these one after the other, then close the adapter."""
    try:
        for context in contexts or [CONTEXT]:
            await adapter.deliver(context)
    finally:
        await adapter.close()


def deliver_by(server: SmtpServer, context: DeliveryContext = CONTEXT) -> None:
    """Deliver the context by this server."""

    async def run() -> None:
        await send(EmailAdapter(server, "leads@example.test"), context)

    asyncio.run(run())


def deliver(
    mailbox: Mailbox,
    context: DeliveryContext = CONTEXT,
    *,
    mail_from: str = "leads@example.test",
    host: str = "127.0.0.1",
    starttls: str = "auto",
    user: str | None = None,
    password: str = PASSWORD,
    implicit_tls: ssl.SSLContext | None = None,
    **server: Any,
) -> None:
    """Deliver the context by an SMTP server that keeps its mail in the mailbox."""

    async def run() -> None:
        def smtp() -> SMTP:
            return SMTP(mailbox, hostname="mx.test", authenticator=mailbox.authenticate, **server)

        async with listening(smtp, host, implicit_tls) as port:
            settings = SmtpServer(host, port, implicit_tls is not None, starttls, user, password)
            await send(EmailAdapter(settings, mail_from), context)

    asyncio.run(run())


async def deliver_to_script(
    script: Script, seconds: float = 30, user: str | None = None, starttls: str = "auto"
) -> None:
    def protocol() -> asyncio.Protocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), script)

    async with listening(protocol) as port:
        settings = SmtpServer("127.0.0.1", port, False, starttls, user, PASSWORD)
        await send(
            EmailAdapter(settings, "leads@example.test", session_seconds=seconds, data_seconds=seconds)
        )


def failure(of: Callable[[], Any]) -> DeliveryError:
    """Return the error that it raises, whose reason must be fit to be shown."""
    with pytest.raises(DeliveryError) as caught:
        of()
    reason = str(caught.value)
    assert reason.isprintable() and len(reason) <= 300
    assert PASSWORD not in reason and "Jane" not in reason and "jane@home.test" not in reason
    return caught.value


def kind(error: DeliveryError) -> FailureKind:
    return error.failure.kind


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server certificate for 127.0.0.1 of an authority that the client trusts."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return server_context(authority, "127.0.0.1")


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_agent_gets_mail_from_configured_sender() -> None:
    mailbox, lead = Mailbox(), dict(LEAD, message="." * 500)
    deliver(mailbox, DeliveryContext("email_1", cast(LeadForDelivery, lead), BUILDING))
    (envelope,) = mailbox.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("leads@example.test", ["agent@maple.test"])
    assert b"Message-ID: <email_1@example.test>\r\n" in envelope.content
    assert b"\r\n......" in envelope.content  # a line that begins with a dot
    mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    text = mail.get_body(("plain",))
    assert text is not None and f"| {'.' * 500}\r\n" in text.get_content()


def test_second_attempt_sends_same_bytes() -> None:
    mailbox = Mailbox()
    deliver(mailbox)
    deliver(mailbox)
    first, second = (envelope.content for envelope in mailbox.envelopes)
    assert first == second


@pytest.mark.parametrize(
    ("command", "reply", "expected"),
    [
        ("AUTH", "454 4.7.0 later", UNREACHABLE),
        ("AUTH", "535 5.7.8 bad credentials", NEEDS_OPERATOR),
        ("MAIL", "451 4.3.0 later", TRANSIENT),
        ("MAIL", "550 5.7.1 not you", NEEDS_OPERATOR),
        ("MAIL", "421 4.3.2 closing", AMBIGUOUS),
        ("RCPT", "450 4.2.1 later", TRANSIENT),
        ("RCPT", "550 5.1.1 no such user", PERMANENT),
        ("RCPT", "421 4.3.2 closing", AMBIGUOUS),
        ("DATA", "452 4.3.1 full", TRANSIENT),
        ("DATA", "554 5.7.1 spam", REFUSED),
        ("DATA", "421 4.3.2 closing", AMBIGUOUS),
    ],
)
def test_each_rejection_has_a_failure_kind_and_is_quoted(
    command: str, reply: str, expected: FailureKind
) -> None:
    mailbox = Mailbox(**{command: reply})
    user = "leads" if command == "AUTH" else None
    error = failure(lambda: deliver(mailbox, user=user, auth_require_tls=False))
    assert kind(error) == expected
    assert reply in str(error) and command in str(error)
    assert not mailbox.envelopes


def test_5xx_at_mail_from_names_the_setting() -> None:
    assert "LEADS_MAIL_FROM" in str(failure(lambda: deliver(Mailbox(MAIL="550 no"))))


def test_5xx_at_auth_names_the_setting() -> None:
    error = failure(lambda: deliver(Mailbox(), user="leads", password="wrong", auth_require_tls=False))
    assert kind(error) == NEEDS_OPERATOR and "LEADS_SMTP_URL" in str(error)


def test_missing_auth_needs_the_operator() -> None:
    error = failure(lambda: deliver(Mailbox(), user="leads", auth_require_tls=True))
    assert kind(error) == NEEDS_OPERATOR and "offers no login" in str(error)


def test_password_is_sent_unencrypted_to_loopback() -> None:
    mailbox = Mailbox()
    deliver(mailbox, user="leads", auth_require_tls=False)
    assert mailbox.logins == [(b"leads", PASSWORD.encode())] and len(mailbox.envelopes) == 1


def test_password_is_not_sent_unencrypted_to_another_machine(other_address: str) -> None:
    mailbox = Mailbox()
    error = failure(lambda: deliver(mailbox, host=other_address, user="leads", auth_require_tls=False))
    assert kind(error) == NEEDS_OPERATOR and "no encryption" in str(error)
    assert not mailbox.logins


def test_starttls_never_sends_the_password_unencrypted(other_address: str) -> None:
    mailbox = Mailbox()
    deliver(mailbox, host=other_address, user="leads", starttls="never", auth_require_tls=False)
    assert mailbox.logins and mailbox.envelopes


@pytest.mark.parametrize("starttls", ["always", "auto"])
def test_starttls_encrypts_mail_and_login(starttls: str, certificate: ssl.SSLContext) -> None:
    mailbox = Mailbox()
    deliver(mailbox, starttls=starttls, user="leads", tls_context=certificate)
    assert mailbox.encrypted == [True] and mailbox.logins


def test_starttls_never_ignores_an_offer(certificate: ssl.SSLContext) -> None:
    mailbox = Mailbox()
    deliver(mailbox, starttls="never", tls_context=certificate)
    assert mailbox.encrypted == [False]


def test_missing_required_starttls_needs_the_operator() -> None:
    mailbox = Mailbox()
    error = failure(lambda: deliver(mailbox, starttls="always"))
    assert kind(error) == NEEDS_OPERATOR and "LEADS_SMTP_URL" in str(error)
    assert not mailbox.envelopes


def test_implicit_tls_encrypts_from_the_start(certificate: ssl.SSLContext) -> None:
    mailbox = Mailbox()
    deliver(mailbox, implicit_tls=certificate, user="leads", auth_require_tls=False)
    assert len(mailbox.envelopes) == 1 and mailbox.logins


@pytest.mark.parametrize("mode", ["implicit", "always", "auto"])
def test_untrusted_certificate_is_unreachable(
    mode: str, certificate: ssl.SSLContext, other_address: str
) -> None:
    host = other_address if mode == "auto" else "127.0.0.1"  # auto verifies no certificate on loopback
    untrusted = server_context(trustme.CA(), host)
    options: Any = {"implicit_tls": untrusted}
    if mode != "implicit":
        options = {"tls_context": untrusted, "starttls": mode}
    error = failure(lambda: deliver(Mailbox(), host=host, **options))
    assert kind(error) == UNREACHABLE and "CERTIFICATE_VERIFY_FAILED" in str(error)


@pytest.mark.parametrize("mode", ["always", "auto"])
def test_certificate_of_another_name_is_unreachable(
    mode: str, authority: trustme.CA, certificate: ssl.SSLContext, other_address: str
) -> None:
    host = other_address if mode == "auto" else "127.0.0.1"
    of_another = server_context(authority, "other.test")
    error = failure(lambda: deliver(Mailbox(), host=host, starttls=mode, tls_context=of_another))
    assert kind(error) == UNREACHABLE and "CERTIFICATE_VERIFY_FAILED" in str(error)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a..b"])
def test_refused_or_unknown_host_is_unreachable(host: str) -> None:
    with socket.socket() as taken:  # bound but not listening: refuses
        taken.bind(("127.0.0.1", 0))
        settings = SmtpServer(host, taken.getsockname()[1], False, "auto", None, None)
        error = failure(lambda: deliver_by(settings))
    assert kind(error) == UNREACHABLE and str(error).startswith(f"{host}:")


@pytest.mark.parametrize(
    "script",
    [
        answers("554 5.3.2 go away"),
        answers("421 4.3.2 busy"),
        answers("HTTP/1.1 400 Bad Request"),
        answers(then="close"),
        answers("220 hello", "502 what?"),
        answers("220 hello", "421 busy"),
        answers("220 hello"),
    ],
    ids=[
        "greeting 5xx",
        "greeting 421",
        "not a mail server",
        "closed at once",
        "EHLO 5xx",
        "EHLO 421",
        "closed after the greeting",
    ],
)
def test_any_failure_before_mail_from_is_unreachable(script: Script) -> None:
    assert kind(failure(lambda: asyncio.run(deliver_to_script(script)))) == UNREACHABLE


@pytest.mark.parametrize("reply", ["454 not now", "220 go on"], ids=["4xx", "closed in the handshake"])
def test_failed_starttls_is_unreachable(reply: str) -> None:
    script = answers("220 hello", "250-mx\r\n250 STARTTLS", reply)
    error = failure(lambda: asyncio.run(deliver_to_script(script, starttls="always")))
    assert kind(error) == UNREACHABLE


@pytest.mark.parametrize(
    "script",
    [
        answers("220 hello", "250 mx"),
        answers("220 hello", "250 mx", "250 OK"),
        answers("220 hello", "250 mx", "250 OK", "250 OK"),
        answers("220 hello", "250 mx", "250 OK", "250 OK", "354 go on"),
        answers("220 hello", "250 mx", "what?"),
    ],
    ids=["MAIL", "RCPT", "DATA", "after the mail", "not SMTP"],
)
def test_connection_lost_after_mail_from_is_transient(script: Script) -> None:
    assert kind(failure(lambda: asyncio.run(deliver_to_script(script)))) == TRANSIENT


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([], UNREACHABLE),
        (["220 hello"], UNREACHABLE),
        (["220 hello", "250-mx\r\n250 STARTTLS", "220 go on"], UNREACHABLE),
        (["220 hello", "250 mx"], TRANSIENT),
        (["220 hello", "250 mx", "250 OK", "250 OK", "354 go on"], TRANSIENT),
    ],
    ids=["greeting", "EHLO", "TLS handshake", "MAIL", "after the mail"],
)
def test_silent_server_is_left_at_the_deadline(replies: list[str], expected: FailureKind) -> None:
    script = answers(*replies, then="silence")
    error = failure(lambda: asyncio.run(deliver_to_script(script, seconds=0.2)))
    assert kind(error) == expected and "in time" in str(error)


@pytest.mark.parametrize(
    "script",
    [
        answers("220 hello", "250 mx", "250 OK", "250 OK", "354 go on", "250 taken"),
        answers("220 hello", "250 mx", "250 OK", "250 OK", "354 go on", "250 taken", "500 what?"),
        answers("220 hello", "250 mx", "250 OK", "250 OK", "354 go on", "250 taken", then="silence"),
    ],
    ids=["closed", "refused", "silence"],
)
def test_failed_quit_after_accepted_mail_is_ignored(script: Script) -> None:
    asyncio.run(deliver_to_script(script, seconds=0.5))


def test_reason_quotes_neither_renter_nor_password() -> None:
    phrase = b64encode(f"\0leads\0{PASSWORD}".encode()).decode()
    login = answers("220 hello", "250-mx\r\n250 AUTH PLAIN", f"535 no: AUTH PLAIN {phrase} is {PASSWORD}")
    error = failure(lambda: asyncio.run(deliver_to_script(login, user="leads")))
    assert phrase not in str(error) and "535 no: AUTH PLAIN *** is ***" in str(error)
    error = failure(lambda: deliver(Mailbox(DATA="554 spam: JANE DOE <jane@home.test> +15551234567")))
    assert "554 spam: *** <***> ***" in str(error)


def test_reason_is_one_short_line_for_any_reply() -> None:
    script = answers("220 hello", "250 mx", "550-first\r\n550-\udcff\udcfe\x1b[31m\r\n550 " + "long " * 500)
    assert "550 first" in str(failure(lambda: asyncio.run(deliver_to_script(script))))


def connections_for(script: Script, mails: int) -> int:
    """Deliver so many mails one after the other. Return the number of connections."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await script(reader, writer)

    async def run() -> None:
        def protocol() -> asyncio.Protocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(), serve)

        async with listening(protocol) as port:
            settings = SmtpServer("127.0.0.1", port, False, "auto", None, None)
            await send(EmailAdapter(settings, "leads@example.test"), *[CONTEXT] * mails)

    asyncio.run(run())
    return connections


HELLO, MAIL = ("220 hello", "250 mx"), ("250 OK", "250 OK", "354 go on", "250 taken")


def test_burst_of_mails_takes_one_session_and_one_login() -> None:
    mailbox = Mailbox()

    async def run() -> None:
        def smtp() -> SMTP:
            return SMTP(
                mailbox, hostname="mx.test", authenticator=mailbox.authenticate, auth_require_tls=False
            )

        async with listening(smtp) as port:
            settings = SmtpServer("127.0.0.1", port, False, "auto", "leads", PASSWORD)
            await send(EmailAdapter(settings, "leads@example.test"), CONTEXT, CONTEXT, CONTEXT)

    asyncio.run(run())
    assert len(mailbox.envelopes) == 3 and len(mailbox.logins) == 1


@pytest.mark.parametrize(
    "script",
    [
        answers(*HELLO, *MAIL),
        answers(*HELLO, *MAIL, "421 4.7.0 that was enough"),
        answers(*HELLO, *MAIL, "451 4.7.0 no more"),
        answers(*HELLO, *MAIL, "550 5.7.0 one is enough"),
        answers(*HELLO, *MAIL, then="silence"),
        answers(*HELLO, *MAIL, "250 OK", "421 4.7.0 that was enough"),
        answers(*HELLO, *MAIL, "250 OK", "550 5.7.0 one is enough"),
    ],
    ids=["closed", "421", "4xx", "5xx", "silence", "421 at RCPT", "5xx at RCPT"],
)
def test_stale_kept_session_is_replaced_by_a_new_one(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.email.pool.REUSE_SECONDS", 0.1)
    monkeypatch.setattr("jobs.email.smtp.QUIT_SECONDS", 0.1)
    assert connections_for(script, 3) == 3


def test_reason_quotes_no_renter_of_an_earlier_mail() -> None:
    script = answers(*HELLO, *MAIL, "250 OK", "250 OK", "354 go on", "554 like that of jane@home.test")
    lead: Any = {**LEAD, "requestor_email": "ann@home.test", "requestor_name": "Ann"}
    other = DeliveryContext("email_2", lead, BUILDING)

    def protocol() -> asyncio.Protocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), script)

    async def run() -> None:
        async with listening(protocol) as port:
            settings = SmtpServer("127.0.0.1", port, False, "auto", None, None)
            await send(EmailAdapter(settings, "leads@example.test"), CONTEXT, other)

    assert "554 like that of ***" in str(failure(lambda: asyncio.run(run())))


def test_session_ends_after_its_maximum_of_mails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.email.pool.MAX_MAILS", 2)
    assert connections_for(answers(*HELLO, *MAIL, *MAIL, "221 bye"), 4) == 2


def test_idle_session_ends_with_quit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.email.pool.KEEP_SECONDS", 0.01)

    async def run() -> None:
        quit_received = asyncio.Event()

        class QuitServer(SMTP):
            async def smtp_QUIT(self, arg: str) -> None:
                quit_received.set()
                await super().smtp_QUIT(arg)

        async with listening(lambda: QuitServer(Mailbox(), hostname="mx.test")) as port:
            settings = SmtpServer("127.0.0.1", port, False, "auto", None, None)
            await EmailAdapter(settings, "leads@example.test").deliver(CONTEXT)
            await asyncio.wait_for(quit_received.wait(), 10)

    asyncio.run(run())


def test_agent_address_outside_ascii_uses_smtputf8() -> None:
    mailbox = Mailbox()
    deliver(mailbox, to_agent("jürgen@bücher.test"), enable_SMTPUTF8=True)
    (envelope,) = mailbox.envelopes
    assert envelope.rcpt_tos == ["jürgen@bücher.test"]
    assert "SMTPUTF8" in envelope.mail_options
    assert "To: jürgen@bücher.test\r\n".encode() in envelope.content


def test_agent_address_outside_ascii_without_smtputf8_is_permanent() -> None:
    error = failure(lambda: deliver(Mailbox(), to_agent("jürgen@maple.test")))
    assert kind(error) == PERMANENT and "building update" in str(error)


def test_sender_outside_ascii_without_smtputf8_needs_the_operator() -> None:
    error = failure(lambda: deliver(Mailbox(), mail_from="jürgen@maple.test"))
    assert kind(error) == NEEDS_OPERATOR and "LEADS_MAIL_FROM" in str(error)


@pytest.mark.parametrize("agent", ["agent@maple.test", "agent@bücher.test"])
def test_smtputf8_is_not_requested_for_ascii_addresses(agent: str) -> None:
    mailbox = Mailbox()
    deliver(mailbox, to_agent(agent), enable_SMTPUTF8=True)
    (envelope,) = mailbox.envelopes
    assert "SMTPUTF8" not in envelope.mail_options and envelope.rcpt_tos[0].isascii()


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (DeliveryContext("email_1", LEAD, None), "no building matched the lead"),
        (to_agent(None), "the building has no agent e-mail"),
    ],
)
def test_lead_without_agent_address_is_permanent_without_connecting(
    context: DeliveryContext, reason: str
) -> None:
    nowhere = SmtpServer("no-such-host.invalid", 25, False, "never", None, None)
    error = failure(lambda: deliver_by(nowhere, context))
    assert kind(error) == PERMANENT and reason in str(error)


@pytest.mark.parametrize(
    "replies", [[], ["220 hello", "250 mx"], ["220 hello", "250-mx\r\n250 STARTTLS", "220 ok"]]
)
def test_cancelled_delivery_stays_cancelled_and_closes_the_connection(replies: list[str]) -> None:
    async def cancelled() -> None:
        silent = asyncio.Event()
        script = answers(*replies, then="silence")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asyncio.get_running_loop().call_later(0.05, silent.set)
            await script(reader, writer)

        delivery = asyncio.create_task(deliver_to_script(serve))
        await silent.wait()
        delivery.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivery

    asyncio.run(cancelled())


def test_C9_odd_local_part_is_a_quoted_string_in_smtp() -> None:
    lines: list[bytes] = []
    script = answers("220 hi", "250 hi", "250 ok", "250 ok", "354 go on", "250 ok", "221 bye")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        readline = reader.readline

        async def recorded() -> bytes:
            lines.append(await readline())
            return lines[-1]

        reader.readline = recorded  # type: ignore[method-assign]
        await script(reader, writer)

    async def run() -> None:
        def protocol() -> asyncio.Protocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(), talk)

        async with listening(protocol) as port:
            settings = SmtpServer("127.0.0.1", port, False, "never", None, None)
            await send(EmailAdapter(settings, "leads..a@office.test"), to_agent("agent.@docomo.ne.jp"))

    asyncio.run(run())
    assert b'MAIL FROM:<"leads..a"@office.test>\r\n' in lines
    assert b'RCPT TO:<"agent."@docomo.ne.jp>\r\n' in lines
    assert b'To: "agent."@docomo.ne.jp\r\n' in lines
