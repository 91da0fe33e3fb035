"""HAProxy and nginx with the samples of `deploy/`, and clients at any address.

Only addresses, ports, paths and the user of a sample are replaced. Besides, its sockets take the PROXY
protocol, so that a client may be at any address.
"""

import asyncio
import ipaddress
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from lead_client import Client
from server_process import ROOT

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
START_SECONDS = 10.0  # a balancer that takes longer is broken
BACKENDS = ("192.0.2.11:8080", "192.0.2.12:8080")  # of the samples
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE
ADDRESS = r"(?:0\.0\.0\.0|\[::\])"


class BalancedClient(Client):
    """Client of a balancer, over TLS, whose address a PROXY header gives."""

    def __init__(self, port: int, address: str) -> None:
        super().__init__(port)
        family = f"TCP{ipaddress.ip_address(address).version}"
        other = "::1" if ":" in address else "127.0.0.1"
        self._proxy_header = f"PROXY {family} {address} {other} 40000 443\r\n".encode()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await super().connect()
        writer.write(self._proxy_header)
        await writer.start_tls(TLS)
        return reader, writer


def haproxy_configuration(folder: Path, ports: tuple[int, int]) -> str:
    """Return the sample for HAProxy."""
    text = (ROOT / "deploy" / "haproxy.cfg").read_text()
    text = re.sub(
        rf"bind {ADDRESS}:(\d+)", lambda bind: f"bind 127.0.0.1:{_port(bind[1], ports)} accept-proxy", text
    )
    text = re.sub(r"(?m)^ +bind .* v6only.*\n", "", text)
    text = re.sub(r"(?m)^ +(user|group) .*\n", "", text)
    return text.replace("/dev/log", "stdout format raw").replace(
        "/etc/haproxy/leads.pem", f"{folder}/leads.pem"
    )


def nginx_configuration(folder: Path, ports: tuple[int, int]) -> str:
    """Return the sample for nginx."""
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    text = re.sub(r"(?m)^ +listen \[::\].*\n", "", text)
    text = re.sub(
        rf"listen {ADDRESS}:(\d+)(.*);",
        lambda listen: f"listen 127.0.0.1:{_port(listen[1], ports)}{listen[2]} proxy_protocol;",
        text,
    )
    text = text.replace(
        "http {", "http {\n    set_real_ip_from 127.0.0.1;\n    real_ip_header proxy_protocol;", 1
    )
    text = text.replace("/etc/nginx/leads.crt", f"{folder}/leads.pem").replace(
        "/etc/nginx/leads.key", f"{folder}/leads.pem"
    )
    return text.replace("/run/nginx.pid", f"{folder}/pid").replace("/var/log/nginx", str(folder))


def _port(of_sample: str, ports: tuple[int, int]) -> int:
    return ports[of_sample == "443"]


CONFIGURATIONS = {"haproxy": haproxy_configuration, "nginx": nginx_configuration}
COMMANDS = {"haproxy": ["haproxy", "-db", "-f"], "nginx": ["nginx", "-g", "daemon off;", "-c"]}


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nothing listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def make_certificate(folder: Path) -> None:
    """Make a self-signed certificate and its key, in one file."""
    file = str(folder / "leads.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        + ["-subj", "/CN=leads.test", "-days", "2", "-keyout", file + ".key", "-out", file],
        capture_output=True,
        check=True,
    )
    with open(file, "a") as both:
        both.write(Path(file + ".key").read_text())


@contextmanager
def running_balancer(
    name: str, folder: Path, backends: Sequence[int], changes: Sequence[tuple[str, str]] = ()
) -> Iterator[tuple[int, int]]:
    """Run a balancer in front of servers on these ports; give its ports of HTTP and HTTPS.

    changes: further replacements in the sample, each of a regular expression.
    """
    program, *arguments = COMMANDS[name]
    found = shutil.which(program, path=SEARCH_PATH)
    if found is None:
        pytest.skip(f"{program} not found; install it to test its sample")
    plain, tls = free_ports(2)
    make_certificate(folder)
    text = CONFIGURATIONS[name](folder, (plain, tls))
    for address, port in zip(BACKENDS, backends, strict=True):
        text = text.replace(address, f"127.0.0.1:{port}")
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text)
        assert count, pattern
    file = folder / f"{name}.conf"
    file.write_text(text)
    with (folder / f"{name}.output").open("w") as output:
        process = subprocess.Popen(
            [found, *arguments, str(file)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        _wait_until_it_listens(process, tls, folder / f"{name}.output")
        yield plain, tls
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", port: int, output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError(output.read_text())
