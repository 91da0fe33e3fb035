"""The URL of a PostgreSQL: its form, and how it is shown without its passwords.

Only its form is checked here, so a command that opens no database refuses it in the same words. No message
quotes what may be a part of a password.
"""

import re

from models.environment import meant_name
from models.setting_values import UnusableValue

SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
# The others of libpq 18.
PARAMETERS = (
    *("application_name", "channel_binding", "client_encoding", "connect_timeout", "dbname"),
    *("fallback_application_name", "gssdelegation", "gssencmode", "gsslib", "host", "hostaddr", "keepalives"),
    *("keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname", "load_balance_hosts"),
    *("max_protocol_version", "min_protocol_version", "oauth_client_id", "oauth_issuer", "oauth_scope"),
    *("options", "passfile", "port", "require_auth", "requirepeer", "service", "ssl_max_protocol_version"),
    *("ssl_min_protocol_version", "sslcert", "sslcertmode", "sslcompression", "sslcrl", "sslcrldir"),
    *("sslkey", "sslkeylogfile", "sslmode", "sslnegotiation", "sslrootcert", "sslsni"),
    *("target_session_attrs", "tcp_user_timeout", "user"),
)
SCHEMES = ("postgresql", "postgres")

_ENCODE = (
    "in its user, password and parameters write % as %25, @ as %40, / as %2F, ? as %3F, # as %23, & as %26 "
    "and = as %3D"
)
_BAD_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})|%00")
_HOST = re.compile(r"(?:\[[^\[\]]+\]|[^\[\]:]*)(?::(?P<port>.*))?")


def parse_database_url(text: str) -> str:
    """Check the form of a PostgreSQL URL; '' stays. Several hosts and libpq's parameters are allowed.

    Raises ValueError.
    """
    if not text:
        return ""
    scheme, mark, rest = text.partition("://")
    if not mark or scheme not in SCHEMES:
        raise UnusableValue("it does not begin with postgresql://")
    _, _, hosts, _, query = _parts(rest)
    if "@" in hosts + query or "#" in rest or not text.isprintable() or " " in text:
        raise UnusableValue(_ENCODE)
    if _BAD_PERCENT.search(rest):
        raise UnusableValue(_ENCODE)
    rest.encode()  # a surrogate: the variable is not UTF-8
    ports = []
    for host in hosts.partition("/")[0].split(","):
        found = _HOST.fullmatch(host)
        if found is None:
            raise UnusableValue("its host is neither a name nor an address; write IPv6 like [::1]")
        ports.append(found["port"])
    parameters = _parameters(query)
    ports += parameters.get("port", "").split(",")
    if not all(_is_port(port) for port in ports if port):
        raise UnusableValue("its port is no number from 1 to 65535; write user:password@host:port")
    return text


def masked_database_url(text: str) -> str:
    """Return a PostgreSQL URL with *** for its passwords, and for what is no parameter of libpq."""
    scheme, mark, rest = text.partition("://")
    user, password, address, question, query = _parts(rest)
    parameters = [_masked_parameter(each) for each in query.split("&")] if query else []
    login = f"{user}{':***' if password else ''}@" if user or password else ""
    return f"{scheme}{mark}{login}{address}{question}{'&'.join(parameters)}"


def without_password(text: str) -> str:
    """Return a PostgreSQL URL without its passwords, for a program that asks for them."""
    scheme, mark, rest = text.partition("://")
    user, _, address, _, query = _parts(rest)
    kept = [each for each in query.split("&") if each and each.partition("=")[0] in PARAMETERS]
    login = f"{user}@" if user else ""
    return f"{scheme}{mark}{login}{address}{'?' if kept else ''}{'&'.join(kept)}"


def with_database(text: str, name: str) -> str:
    """Return a PostgreSQL URL that names this database. name: needs no encoding."""
    scheme, mark, rest = text.partition("://")
    user, password, address, question, query = _parts(rest)
    login = f"{user}{':' if password else ''}{password}@" if user or password else ""
    kept = [each for each in query.split("&") if each and not each.startswith("dbname=")]
    hosts = address.partition("/")[0]
    return f"{scheme}{mark}{login}{hosts}/{name}{'?' if kept else ''}{'&'.join(kept)}"


def _parts(rest: str) -> tuple[str, str, str, str, str]:
    """Return user, password, hosts with the database, the question mark, and the query of a URL.

    rest: what follows '://'. As libpq reads it: an @ before the first slash ends the password, whatever is in
    it.
    """
    login, mark, others = rest.partition("@")
    if not mark or "/" in login:
        login, others = "", rest
    user, _, password = login.partition(":")
    address, question, query = others.partition("?")
    return user, password, address, question, query


def _parameters(query: str) -> dict[str, str]:
    """Return the parameters by their names. Raises UnusableValue."""
    parameters = {}
    has_secret = any(each.partition("=")[0] in SECRETS for each in query.split("&"))
    for each in query.split("&") if query else []:
        name, mark, value = each.partition("=")
        if not mark or "=" in value:
            raise UnusableValue(f"its parameters are name=value with & between; {_ENCODE}")
        if name not in (*PARAMETERS, *SECRETS):
            if has_secret:  # the name may be the rest of a password with an &
                raise UnusableValue(f"it has a parameter that libpq does not know; {_ENCODE}")
            if name == "ssl":
                raise UnusableValue("libpq has no parameter 'ssl'; write sslmode=require, or verify-full")
            meant = meant_name(name, (*PARAMETERS, *SECRETS))
            hint = f"; did you mean {meant}?" if meant else ""
            raise UnusableValue(f"libpq has no parameter {name[:40]!r}{hint}")
        parameters[name] = value
    return parameters


def _masked_parameter(parameter: str) -> str:
    name, mark, _ = parameter.partition("=")
    if name in PARAMETERS:
        return parameter
    return f"{name}{mark}***" if name in SECRETS else "***"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65_535
