"""Mail servers of Debian: a Postfix and an Exim in temporary folders, and what Postfix asks about a mail.

Both need root, and users of their own. `.ci/mail-servers` installs them. Where one is missing, its tests are
skipped, and the summary of the tests says so.
"""

import base64
import os
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_ports

SERVERS_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/opt/exim4/usr/sbin"])
PASSWORD = "correct horse"  # of every user of Postfix
NOBODY = 65534  # the owner of the mailboxes of Postfix, which must not be root
RATE_SECONDS = 1  # the period of Postfix's limits of mails

# What each SMTP service of the one Postfix has besides the rest. {asked}: the port of what Postfix asks.
SERVICES = {
    "plain": [],
    "debian": [
        "smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination"
    ],
    "strict_helo": [
        "smtpd_helo_required = yes",
        "smtpd_helo_restrictions = reject_invalid_helo_hostname reject_non_fqdn_helo_hostname",
    ],
    "denied_sender": ["smtpd_sender_restrictions = check_sender_access static:REJECT"],
    "own_sender": [
        "smtpd_sasl_auth_enable = yes",
        "smtpd_sender_login_maps = static:somebody.else",
        "smtpd_sender_restrictions = reject_sender_login_mismatch",
    ],
    "login": [
        "smtpd_sasl_auth_enable = yes",
        "smtpd_relay_restrictions = permit_sasl_authenticated reject",
    ],
    "asking": [
        "smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:{asked}",
        "smtpd_end_of_data_restrictions = check_policy_service inet:127.0.0.1:{asked}",
    ],
    "small": ["message_size_limit = 8000"],
    "content": ["cleanup_service_name = content_cleanup"],
    "tls": ["smtpd_tls_security_level = may"],
    "one_connection": ["smtpd_client_connection_count_limit = 1"],
    "slow": ["smtpd_client_message_rate_limit = 10"],
}
MAILBOXES = ["agent@oak.test", "büro@oak.test", *(f"agent{number}@oak.test" for number in range(5))]

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = mail.test
mydestination =
mynetworks =
inet_protocols = ipv4
smtpd_peername_lookup = no
smtpd_relay_restrictions = reject_unauth_destination
# Nothing leaves this machine, bounces neither.
default_transport = discard:
virtual_mailbox_domains = oak.test
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = texthash:{folder}/conf/mailboxes
virtual_uid_maps = static:{nobody}
virtual_gid_maps = static:{nobody}
in_flow_delay = 0
anvil_rate_time_unit = {rate_seconds}s
smtpd_client_event_limit_exceptions =
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:127.0.0.1:{logins}
smtpd_tls_cert_file = {folder}/conf/certificate.pem
smtpd_tls_key_file = {folder}/conf/key.pem
"""
MASTER_CF = """\
cleanup         unix        n  -  n  -     0  cleanup
content_cleanup unix        n  -  n  -     0  cleanup
  -o {{ header_checks = regexp:{folder}/conf/header_checks }}
  -o {{ body_checks = regexp:{folder}/conf/body_checks }}
qmgr            unix        n  -  n  300   1  qmgr
rewrite         unix        -  -  n  -     -  trivial-rewrite
bounce          unix        -  -  n  -     0  bounce
defer           unix        -  -  n  -     0  bounce
trace           unix        -  -  n  -     0  bounce
proxymap        unix        -  -  n  -     -  proxymap
error           unix        -  -  n  -     -  error
retry           unix        -  -  n  -     -  error
discard         unix        -  -  n  -     -  discard
virtual         unix        -  n  n  -     -  virtual
anvil           unix        -  -  n  -     1  anvil
tlsmgr          unix        -  -  n  1000? 1  tlsmgr
postlog         unix-dgram  n  -  n  -     1  postlogd
"""
EXIM_CONF = """\
primary_hostname = mail.test
spool_directory = {folder}/spool
log_file_path = {folder}/spool/%slog
pid_file_path = {folder}/pid
exim_path = {program}
keep_environment =
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts =
acl_smtp_rcpt = check_recipient
acl_smtp_data = check_content
begin acl
check_recipient:
  require message = relay not permitted
          domains = oak.test
  require verify = recipient
  accept
check_content:
  deny condition = ${{if match{{$h_Subject:}}{{Refused}}}}
  accept
begin routers
mailbox:
  driver = accept
  local_parts = agent : agent0
  transport = maildir
begin transports
maildir:
  driver = appendfile
  directory = {folder}/mail/all
  maildir_format
  envelope_to_add
  user = Debian-exim
"""


class RealMailServer:
    """A mail server in a folder of its own, with an SMTP port for each of its services."""

    def __init__(self, folder: Path, ports: Mapping[str, int], log: Path) -> None:
        self._folder, self._ports, self._log = folder, ports, log

    def url(self, service: str = "plain", query: str = "", login: str = "") -> str:
        """Return the setting `smtp_url` for one of the services. login: 'user:password'."""
        return f"smtp://{login and login + '@'}127.0.0.1:{self._ports[service]}{query and '?' + query}"

    def mails(self, address: str) -> list[bytes]:
        """Return each mail that has arrived for the address, as it is stored."""
        stored = [file.read_bytes() for file in (self._folder / "mail").glob("*/new/*")]
        return [mail for mail in stored if _delivered_to(mail) == address]

    @property
    def log(self) -> str:
        """The server's log so far. It may lag behind the replies."""
        return self._log.read_text()

    def forget(self) -> None:
        """Delete the mails that have arrived."""
        for file in (self._folder / "mail").glob("*/new/*"):
            file.unlink()


class Postfix(RealMailServer):
    """A running Postfix.

    answer: the action of an access table for each request of the service 'asking', by the attributes of
    Postfix's policy protocol: 'DUNNO', or '550 5.4.5 text'.
    """

    answer: Callable[[Mapping[str, str]], str]

    def forget(self) -> None:
        """As `RealMailServer.forget`; and accept every mail of the service 'asking'."""
        super().forget()
        self.answer = lambda attributes: "DUNNO"


@pytest.fixture(scope="session")
def running_postfix() -> Iterator[Postfix]:
    """One Postfix for all tests; use `postfix`."""
    program = _program("postfix")
    ports = dict(zip([*SERVICES, "asked", "logins"], free_ports(len(SERVICES) + 2), strict=True))
    with _folder() as folder:
        postfix = Postfix(folder, ports, folder / "log")
        postfix.forget()
        _configure_postfix(folder, ports)
        command = [str(Path(program).with_name("postconf")), "-dh", "daemon_directory"]
        daemons = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        # Makes the folders of the queue, as `postfix start` does before it starts the same daemon.
        subprocess.run([program, "-c", folder / "conf", "check"], check=True, stderr=subprocess.DEVNULL)
        with (
            _listening(ports["asked"], lambda stream: _answer_policy(stream, postfix)),
            _listening(ports["logins"], _answer_logins),
            _started([f"{daemons}/master", "-c", folder / "conf", "-s"], ports["plain"]),
        ):
            yield postfix


@pytest.fixture
def postfix(running_postfix: Postfix) -> Postfix:
    """A Postfix without mails, with mailboxes at oak.test."""
    running_postfix.forget()
    return running_postfix


@pytest.fixture(scope="session")
def running_exim() -> Iterator[RealMailServer]:
    """One Exim for all tests; use `exim`."""
    program = _program("exim4")
    [port] = free_ports(1)
    with _folder() as folder:
        for name in ("spool", "mail"):
            (folder / name).mkdir()
            shutil.chown(folder / name, "Debian-exim")
        configuration = folder / "exim.conf"
        configuration.write_text(EXIM_CONF.format(folder=folder, program=program, port=port))
        with _started([program, "-C", configuration, "-bdf"], port):
            yield RealMailServer(folder, {"plain": port}, folder / "spool" / "mainlog")


@pytest.fixture
def exim(running_exim: RealMailServer) -> RealMailServer:
    """An Exim without mails, with mailboxes of agent and agent0 at oak.test."""
    running_exim.forget()
    return running_exim


def _program(name: str) -> str:
    """Return the path of a mail server's program. Skip the test if it can't be run."""
    path = shutil.which(name, path=SERVERS_PATH)
    if path is None:
        pytest.skip(f"NOT RUN: {name} is not installed (.ci/mail-servers installs it)")
    if os.geteuid() != 0:
        pytest.skip(f"NOT RUN: {name} needs root")
    return path


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder that the users of the mail servers can read: pytest's can't be."""
    with tempfile.TemporaryDirectory(prefix="mail-server-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def _started(command: Sequence[str | Path], port: int) -> Iterator[None]:
    """Run a server that listens on the port, for the block."""
    # The shell ends the server at the end of its input: even after a test run that was killed.
    shell = ["sh", "-c", '"$@" & read _; kill $!; wait', "sh"]
    with subprocess.Popen([*shell, *command], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL):
        for _ in range(1_000):
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        else:
            raise AssertionError(f"{command[0]} does not listen")
        yield


def _configure_postfix(folder: Path, ports: Mapping[str, int]) -> None:
    for name in ("conf", "queue", "data", "mail"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", "postfix")
    os.chown(folder / "mail", NOBODY, NOBODY)
    conf = folder / "conf"
    values = {"folder": folder, "nobody": NOBODY, "rate_seconds": RATE_SECONDS, **ports}
    (conf / "main.cf").write_text(MAIN_CF.format(**values))
    (conf / "master.cf").write_text(MASTER_CF.format(**values) + "".join(_smtp_services(ports)))
    (conf / "mailboxes").write_text("".join(f"{address} {address}/\n" for address in MAILBOXES))
    (conf / "header_checks").write_text("/^Subject:.*Refused/ REJECT the subject is spam\n")
    (conf / "body_checks").write_text("/refused words/ REJECT the words are spam\n")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=mail.test",
        ]
        + ["-keyout", conf / "key.pem", "-out", conf / "certificate.pem"],
        check=True,
        stderr=subprocess.DEVNULL,
    )


def _smtp_services(ports: Mapping[str, int]) -> Iterator[str]:
    for name, options in SERVICES.items():
        yield f"127.0.0.1:{ports[name]} inet n - n - - smtpd\n"
        for option in options:
            yield f"  -o {{ {option.format(**ports)} }}\n"


@contextmanager
def _listening(port: int, talk: Callable[[Any], None]) -> Iterator[None]:
    """Serve connections to the port, each in a thread. talk: gets its stream of lines."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError), self.request.makefile("rw", newline="\n") as stream:
                talk(stream)

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        block_on_close = False  # Postfix keeps its connections

    with Listener(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _answer_policy(stream: Any, postfix: Postfix) -> None:
    """Speak Postfix's policy protocol (SMTPD_POLICY_README)."""
    attributes: dict[str, str] = {}
    for line in stream:
        name, _, value = line.rstrip("\n").partition("=")
        if name:
            attributes[name] = value
            continue
        stream.write(f"action={postfix.answer(attributes)}\n\n")
        stream.flush()
        attributes = {}


def _answer_logins(stream: Any) -> None:
    """Speak Dovecot's authentication protocol: every user has PASSWORD."""
    stream.write("VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n")
    stream.flush()
    for line in stream:
        words = line.rstrip("\n").split("\t")
        if words[0] != "AUTH":
            continue
        response = next(word.removeprefix("resp=") for word in words if word.startswith("resp="))
        _, user, password = base64.b64decode(response).decode().split("\0")
        stream.write(f"{'OK' if password == PASSWORD else 'FAIL'}\t{words[1]}\tuser={user}\n")
        stream.flush()


def _delivered_to(mail: bytes) -> str:
    """Return the address that the mail server wrote at the top of the mail."""
    for line in mail.split(b"\n\n", 1)[0].splitlines():
        name, _, value = line.partition(b": ")
        if name.lower() in (b"delivered-to", b"envelope-to"):
            return value.decode()
    raise AssertionError("the mail names no recipient")
