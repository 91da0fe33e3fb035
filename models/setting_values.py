"""The values of settings: their types, and how each is parsed from text."""

import base64
import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from models.email_address import normal_form
from models.origin import origin_of

MIN_SECRET_BYTES = 16
ENCODED_KEY = "base64:"  # begins a key of LEADS_SECRET that is no text

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IPv4 addresses as IPv6 writes them. A peer with such an address counts as its IPv4 address (C28).
IPV4_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
ALL_IPV6 = ipaddress.IPv6Network("::/0")
PARAMETER = re.compile("([^=&;]*=)?[^&;]+")
USER_INFO = re.compile(r"^((?:[a-z][a-z0-9+.-]*:)?//)?([^/]*)@", re.IGNORECASE)
ENCODE = "in its user and password write # as %23, / as %2F, ? as %3F, [ as %5B, ] as %5D and @ as %40"
HELO = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?|\[[0-9A-Fa-f.:IPv]{3,60}\]")
LOCAL_DOMAINS = ("localhost", "localdomain")
WITH_PORT = re.compile(r"([0-9.]+|\[[^\]]*\]):[0-9]+")


class UnusableValue(ValueError):
    """A value that can't be used. The message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate limit: requests in seconds. As many requests may come at once."""

    requests: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.requests}/{self.seconds}"


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """The address and login of a mail server. starttls: always, auto (if the server offers it), never.

    helo: the name that the client gives itself; '' for one that it finds. domain: that of the sender's
    address, for want of a better name.
    """

    host: str
    port: int
    implicit_tls: bool
    starttls: str
    user: str | None
    password: str | None = field(repr=False)
    helo: str = ""
    domain: str = ""


def parse_rate(text: str) -> Rate:
    """'300/300' → Rate. Raises ValueError."""
    requests, _, seconds = text.partition("/")
    rate = Rate(int(requests), int(seconds))
    if not (0 < rate.requests <= 1_000_000 and 0 < rate.seconds <= 86_400):
        raise ValueError
    return rate


def parse_networks(text: str) -> tuple[Network, ...]:
    """'127.0.0.1, 10.0.0.0/8' → networks. Raises ValueError."""
    return tuple(_network(part.strip()) for part in text.split(",") if part.strip())


def parse_rate_exceptions(text: str) -> tuple[tuple[Network, Rate], ...]:
    """'10.0.0.0/8=3000/300, 192.0.2.7=20/60' → limits by network, the narrowest first. Raises ValueError."""
    limits: dict[Network, Rate] = {}
    for part in filter(str.strip, text.split(",")):
        name, _, rate = part.partition("=")
        network = _network(name.strip())
        if network in limits:
            raise UnusableValue(f"{str(network)!r} has two limits")
        limits[network] = parse_rate(rate)
    return tuple(sorted(limits.items(), key=lambda limit: -limit[0].prefixlen))


def _network(text: str) -> Network:
    """Return the network as the peers' addresses are compared with it. Raises UnusableValue.

    An IPv4-mapped network is its IPv4 network. What no peer's address can be in is refused.
    """
    if "%" in text:
        raise UnusableValue(f"{text!r} has a zone; write the address without it")
    if match := WITH_PORT.fullmatch(text):
        raise UnusableValue(f"{text!r} has a port; write {match[1].strip('[]')}")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UnusableValue(
            f"{text!r} is neither an address nor a network; names of hosts are not looked up"
        ) from None
    if ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
        raise UnusableValue(f"{text!r} is an address inside of {network}; write one of the two")
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(IPV4_MAPPED):
        in_ipv4 = network.network_address.packed[-4:], network.prefixlen - IPV4_MAPPED.prefixlen
        network = ipaddress.IPv4Network(in_ipv4)
    elif isinstance(network, ipaddress.IPv6Network) and network != ALL_IPV6:
        if network.supernet_of(IPV4_MAPPED):
            raise UnusableValue(f"{text!r} has all IPv4 addresses inside; write 0.0.0.0/0 for these")
    if network.num_addresses == 1 and network.network_address.is_unspecified:
        raise UnusableValue(f"{text!r} is no client's address; all addresses are 0.0.0.0/0 and ::/0")
    return network


def parse_smtp_url(text: str) -> SmtpServer | None:
    """'smtp://user:pass@mail.example.com:587?starttls=always' → SmtpServer; '' → None. Raises ValueError."""
    if not text:
        return None
    try:
        parts = urlsplit(text)
    except ValueError:  # a bracket in the password reads as an IPv6 address
        raise UnusableValue(ENCODE) from None
    if "@" in parts.path + parts.query + parts.fragment:  # the password ended at a # or /
        raise UnusableValue(ENCODE)
    query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    starttls, helo = query.pop("starttls", "auto"), query.pop("helo", "")
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ValueError
    if query or parts.fragment or parts.path.strip("/"):
        raise ValueError
    if starttls not in ("always", "auto", "never") or (helo and not HELO.fullmatch(helo)):
        raise ValueError
    implicit = parts.scheme == "smtps"
    return SmtpServer(
        host=parts.hostname,
        port=parts.port or (465 if implicit else 587 if parts.username else 25),
        implicit_tls=implicit,
        starttls=starttls,
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password or "") if parts.username else None,
        helo=helo,
    )


def parse_partner_url(text: str) -> str:
    """Check an https URL, or an http URL of this machine; '' stays. Raises ValueError."""
    parts = urlsplit(text)
    if parts.netloc and "." not in parts.netloc and "@" in parts.path + parts.query + parts.fragment:
        raise UnusableValue(ENCODE)  # the host is the user, whose password has a # or /
    if text and not (
        parts.hostname
        and text.isprintable()  # urlsplit drops line breaks, and the HTTP client would send them
        and " " not in text
        and parts.port != 0  # it raises ValueError for a port that is no number
        and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname)))
    ):
        raise ValueError
    return text


def masked_url(text: str) -> str:
    """Return a URL with *** for what may be secret: password, user without one, query's values, fragment."""
    before, mark, fragment = text.partition("#")
    address, question, query = before.partition("?")
    return (
        USER_INFO.sub(lambda found: f"{found[1] or ''}{_masked_user_info(found[2])}@", address)
        + question
        + PARAMETER.sub(lambda found: f"{found[1] or ''}***", query)
        + mark
        + (fragment and "***")
    )


def _masked_user_info(text: str) -> str:
    user, _, password = text.partition(":")
    return f"{user}:***" if password else "***"  # some services take their key as the user


def parse_signing_secret(text: str) -> bytes:
    """Return the bytes of a key, as the libraries of Standard Webhooks read it. Raises ValueError.

    It is base64, alone or behind 'whsec_' or 'v1,'. Other text, without such a mark, is the key itself.
    """
    marked = text.removeprefix("v1,").removeprefix("whsec_")
    try:
        key = base64.b64decode(marked, validate=True)
    except ValueError:
        if marked != text:
            raise ValueError from None
        return text.encode()
    if text and not key:
        raise ValueError
    return key


def parse_public_url(text: str) -> str:
    """Check an http(s) URL and return it without a final slash; '' stays. Raises ValueError."""
    if text:
        origin_of(text)
    return text.rstrip("/")


def parse_mail_from(text: str) -> str:
    """Check a bare e-mail address; '' stays. Raises ValueError."""
    if text:
        normal_form(text)
    return text


def is_local_address(address: str) -> bool:
    """Return True if other mail servers can't know the domain of an e-mail address, such as localhost.

    A domain without a dot is a name of one machine or network, such as a container's id. An IP address is no
    domain.
    """
    labels = address.rpartition("@")[2].lower().rstrip(".").split(".")
    return len(labels) == 1 or labels[-1] in LOCAL_DOMAINS or labels[-1].isdigit()


def parse_port(text: str) -> int:
    """'8080' → 8080; 0 lets the system choose. Raises ValueError."""
    port = int(text)
    if not 0 <= port <= 65_535:
        raise ValueError
    return port


def parse_count(text: str) -> int:
    """'14' → 14. Raises ValueError."""
    count = int(text)
    if not 0 <= count <= 10_000:
        raise ValueError
    return count


def parse_secret(text: str) -> tuple[bytes, ...]:
    """'new, old' → the keys; '' → (). Raises ValueError for a key under 16 characters.

    A key is its text in UTF-8. Behind 'base64:' it is what that decodes to: the key of a file leads.secret.
    """
    keys = tuple(_secret_key(part.strip()) for part in text.split(",") if part.strip())
    if any(len(key) < MIN_SECRET_BYTES for key in keys):
        raise ValueError
    return keys


def _secret_key(text: str) -> bytes:
    if not text.startswith(ENCODED_KEY):
        return text.encode()
    return base64.b64decode(text.removeprefix(ENCODED_KEY), validate=True)  # binascii.Error is a ValueError


def parse_log_format(text: str) -> str:
    """Check that the text is 'text' or 'json'. Raises ValueError."""
    if text not in ("text", "json"):
        raise ValueError
    return text


def is_loopback(host: str) -> bool:
    """Return True if the host can be reached by programs on this machine alone."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
