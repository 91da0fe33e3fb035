"""The greeting and the login of an SMTP session: the client's name, HELO for old servers, the method."""

import asyncio
import socket
from typing import Any

import pytest
from mail_server import PASSWORD, Script, answers, listening

from jobs.adapter import DeliveryError
from jobs.email import greeting
from jobs.email.pool import check_login
from models.setting_values import SmtpServer, UnusableValue, parse_smtp_url
from models.settings import load


class Recorded:
    """A script, and the lines that its clients sent."""

    def __init__(self, *replies: str) -> None:
        self.lines: list[str] = []
        self._replies = replies

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number, reply in enumerate(self._replies):
            if number:
                self.lines.append((await reader.readline()).decode().strip())
            writer.write(reply.encode() + b"\r\n")
        await reader.read()
        writer.close()


def log_in(script: Script, host: str = "127.0.0.1", **server: Any) -> None:
    """Log in to a server that follows the script."""

    async def run() -> None:
        def protocol() -> asyncio.Protocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(), script)

        async with listening(protocol, host) as port:
            user, password = server.pop("user", None), server.pop("password", PASSWORD)
            await check_login(SmtpServer(host, port, False, "never", user, password, **server), 20)

    asyncio.run(run())


@pytest.fixture(autouse=True)
def forgotten_host_name() -> None:
    greeting._host_name.cache_clear()


@pytest.mark.parametrize(
    ("own", "server", "name"),
    [
        ("box.example.com", {}, "box.example.com"),
        ("box.example.com", {"helo": "mx.example.net"}, "mx.example.net"),
        ("box.example.com", {"helo": "[192.0.2.1]", "domain": "example.org"}, "[192.0.2.1]"),
        ("localhost", {"domain": "maple.example"}, "maple.example"),
        ("3f2a9c1b2d4e", {"domain": "maple.example"}, "maple.example"),
        ("localhost.localdomain", {"domain": "maple.example"}, "maple.example"),
        ("printer.local", {"domain": "maple.example"}, "maple.example"),
        ("3f2a9c1b2d4e", {"domain": "localhost"}, "[127.0.0.1]"),
        ("büro.example", {"domain": "büro.example"}, "[127.0.0.1]"),
        ("box", {}, "[127.0.0.1]"),
    ],
)
def test_name_in_ehlo_has_a_dot_or_is_an_address(
    monkeypatch: pytest.MonkeyPatch, own: str, server: dict[str, str], name: str
) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: own)
    script = Recorded("220 hello", "250 mx", "221 bye")
    log_in(script, **server)
    assert script.lines[0] == f"EHLO {name}"


def test_address_literal_of_ipv6_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "box")
    script = Recorded("220 hello", "250 mx", "221 bye")
    log_in(script, "::1")
    assert script.lines[0] == "EHLO [IPv6:::1]"


@pytest.mark.parametrize("reply", ["500 what?", "502 5.5.1 not implemented"])
def test_server_without_ehlo_is_greeted_by_helo(reply: str) -> None:
    script = Recorded("220 hello", reply, "250 mx", "221 bye")
    log_in(script, helo="mx.example.net")
    assert script.lines[:2] == ["EHLO mx.example.net", "HELO mx.example.net"]


def test_server_that_refuses_the_name_is_not_greeted_again() -> None:
    script = Recorded("220 hello", "504 5.5.2 Helo command rejected", "250 mx")
    with pytest.raises(DeliveryError, match="504"):
        log_in(script)
    assert not any(script.lines[1:])


def test_next_method_of_login_is_tried_if_one_is_refused() -> None:
    script = Recorded(
        "220 hello", "250-mx\r\n250 AUTH PLAIN LOGIN CRAM-MD5", "535 no", "334 ", "235 ok", "221 bye"
    )
    log_in(script, user="leads")
    assert [line.partition(" ")[0] for line in script.lines[1:3]] == ["AUTH", "AUTH"]
    assert script.lines[1].startswith("AUTH PLAIN ") and script.lines[2].startswith("AUTH LOGIN")


def test_cram_md5_comes_last_where_nobody_can_listen() -> None:
    script = Recorded("220 hello", "250-mx\r\n250 AUTH CRAM-MD5 LOGIN PLAIN", "235 ok", "221 bye")
    log_in(script, user="leads")
    assert script.lines[1].startswith("AUTH PLAIN ")


def test_every_method_refused_names_the_setting() -> None:
    script = answers("220 hello", "250-mx\r\n250 AUTH PLAIN", "535 5.7.8 wrong")
    with pytest.raises(DeliveryError, match="LEADS_SMTP_URL"):
        log_in(script, user="leads")


@pytest.mark.parametrize("password", ["p#w", "p/w", "p?w", "p[w", "p]w", "a#b/c", "#", "p/w?x=y", "12/34"])
def test_password_that_ends_the_url_says_to_percent_encode(password: str) -> None:
    with pytest.raises(UnusableValue, match="%23"):
        parse_smtp_url(f"smtp://user:{password}@mail.example.com")


def test_percent_encoded_password_is_taken() -> None:
    server = parse_smtp_url("smtp://us%40er:%23%2F%3F%40%5B%25@mail.example.com:2525?helo=box.example.com")
    assert server and (server.user, server.password) == ("us@er", "#/?@[%")
    assert (server.host, server.port, server.helo) == ("mail.example.com", 2525, "box.example.com")


@pytest.mark.parametrize("helo", ["a b", "-x", "x;y", "a%0Ab", "x" * 300])
def test_helo_that_is_no_name_is_refused(helo: str) -> None:
    with pytest.raises(ValueError):
        parse_smtp_url(f"smtp://mail.example.com?helo={helo}")


def test_senders_domain_is_known_to_the_session() -> None:
    given = {"LEADS_SMTP_URL": "smtp://mail.test", "LEADS_MAIL_FROM": "leads@maple.example"}
    settings = load({}, given)
    assert settings.smtp_url and settings.smtp_url.domain == "maple.example"
