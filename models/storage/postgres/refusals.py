"""Connections that PostgreSQL refuses: what the operator has to correct, and what passes by itself."""

import re
import select
import socket
import tempfile
import time

import psycopg
from psycopg.pq import PGconn, PollingStatus, abc

from models.storage import DatabaseUnusable
from models.storage.postgres.failures import storage_reason

SETTING = "LEADS_DATABASE_URL"
ASK_SECONDS = 5.0  # for the connection that asks why another one was refused

# What libpq itself says, in English, and what the operator does about it.
_OF_LIBPQ = (
    ("no password supplied", f"give the role's password in {SETTING}"),
    ("failed to resolve host", f"correct the host in {SETTING}, or DNS"),
    (
        "server does not support SSL",
        "set up TLS on the database's host, or remove sslmode if the network to it is your own",
    ),
    (
        "certificate verify failed|root certificate|server certificate|host name|self-signed",
        "name the host as its certificate does, and the authority's file by sslrootcert",
    ),
    (
        "certificate|private key|channel binding|authentication method|GSSAPI|alert|SSL.*version",
        f"correct the login or the parameters of TLS in {SETTING}",
    ),
    ("response to SSL|unsupported protocol", f"correct host and port in {SETTING}: no PostgreSQL answers"),
    ("not read-only|not in hot standby", f"take target_session_attrs=read-write in {SETTING}"),
    ("invalid |bad value|service|could not match|must |not supported|may not be used", f"correct {SETTING}"),
    # Where libpq can't trace, these are all that is known of what the server said.
    (
        "password authentication failed|(role|database) .* does not exist|no pg_hba.conf entry",
        f"correct {SETTING}, or make what is missing on the database's host",
    ),
)
# The same of what the server says, by its SQLSTATE, as its words may be in another language.
_OF_SERVER = (
    ("28P01", "", f"set the right user and password in {SETTING}"),
    (
        "28000",
        "pg_hba.conf",
        "allow it in pg_hba.conf on the database's host, or take sslmode=require if it allows TLS only",
    ),
    ("28000", "does not exist", f"make it with CREATE ROLE … LOGIN PASSWORD '…', or correct {SETTING}"),
    ("28000", "permitted to log in", f"allow it with ALTER ROLE … LOGIN, or correct {SETTING}"),
    ("28", "", f"check the user in {SETTING}, and pg_hba.conf on the database's host"),
    ("3D000", "", f"make it with CREATE DATABASE … OWNER … ENCODING 'UTF8', or correct {SETTING}"),
    ("42501", "", "GRANT the role CONNECT on the database, and CREATE on its schema"),
    ("42|22", "", f"correct 'options' in {SETTING}, or what ALTER ROLE and ALTER DATABASE have SET"),
    # PgBouncer has this state for what passes, too.
    (
        "08P01",
        "startup parameter|no such|not allowed",
        f"correct {SETTING}; PgBouncer serves it with pool_mode = session",
    ),
)
# A passing state: what the operator does if it lasts.
_PASSING = (
    ("read-only|standby|recovery", f"name the primary in {SETTING}, or all hosts with commas between"),
    ("too many|slots|no more connections", "close connections to it, or raise the limit"),
    ("", f"see that it runs and can be reached from here, or correct {SETTING}"),
)
_NO_SUCH_HOST = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", -5), -8)
_NOT_RESOLVED = re.compile(r"failed to resolve host .*\[Errno (-?\d+)\]")
_REFUSAL = re.compile(r'ErrorResponse\t.*? C "(\w{5})" M "(.*?)"(?: [A-Z] "| \\x00)', re.DOTALL)


def unusable(error: Exception, conninfo: str) -> DatabaseUnusable | None:
    """Return what the operator has to correct after a connection failed; None if a later one may succeed."""
    reason = storage_reason(error)
    if isinstance(error, UnicodeError):
        return DatabaseUnusable(f"{SETTING}: its host is no host name; correct it")
    if not_resolved := _NOT_RESOLVED.search(reason):
        if int(not_resolved[1]) not in _NO_SUCH_HOST:
            return None
    elif (refusal := _refusal(conninfo)) is not None:
        state, said, host = refusal
        for states, words, fix in _OF_SERVER:
            if re.match(states, state) and re.search(words, said):
                return DatabaseUnusable(f"PostgreSQL at {host} says: {said}; {fix}")
        return None
    for words, fix in _OF_LIBPQ:
        if re.search(words, reason):
            return DatabaseUnusable(f"PostgreSQL can't be used: {reason}; {fix}")
    return None


def advice(reason: str) -> str:
    """Return what to do about a connection that may succeed later, if it does not."""
    return next(fix for words, fix in _PASSING if re.search(words, reason))


def _refusal(conninfo: str) -> tuple[str, str, str] | None:
    """Connect again; return the SQLSTATE and the words of a server's refusal, and where; None without one.

    psycopg gives neither: libpq keeps the SQLSTATE of a refused connection to itself, but traces it; on
    Linux, that is.
    """
    try:
        connection = PGconn.connect_start(conninfo.encode())
    except psycopg.Error:
        return None
    try:
        with tempfile.TemporaryFile() as trace:
            connection.trace(trace.fileno())
            _wait_for_outcome(connection)
            host = f"{connection.host.decode()}:{connection.port.decode()}"
            connection.untrace()
            trace.seek(0)
            traced = trace.read().decode("utf-8", "replace")
    except (psycopg.Error, OSError):
        return None
    finally:
        connection.finish()
    found = _REFUSAL.findall(traced)
    return (found[-1][0], " ".join(found[-1][1].split()), host) if found else None


def _wait_for_outcome(connection: abc.PGconn) -> None:
    deadline = time.monotonic() + ASK_SECONDS
    status: int = PollingStatus.WRITING
    while status in (PollingStatus.READING, PollingStatus.WRITING) and time.monotonic() < deadline:
        waiting = select.poll()
        event = select.POLLIN if status == PollingStatus.READING else select.POLLOUT
        waiting.register(connection.socket, event)
        waiting.poll(1000 * max(0.0, deadline - time.monotonic()))
        status = connection.connect_poll()
