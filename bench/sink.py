"""The bench's mail server: it accepts every mail, and prints when.

It prints a line a mail: the renter's address, and the moment by `time.monotonic`. It speaks as little SMTP as
possible, so that it takes little processor time from the server that is measured.
"""

import asyncio
import re
import sys
import time

REPLY_TO = re.compile(rb"^Reply-To:.*?([^\s<>\"]+@[^\s<>\"]+)", re.IGNORECASE | re.MULTILINE | re.DOTALL)


class SmtpSession(asyncio.Protocol):
    """Server connection: one SMTP session."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""
        self._in_mail = False
        transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self._received += data
        while True:
            end = b"\r\n.\r\n" if self._in_mail else b"\r\n"
            part, found, rest = self._received.partition(end)
            if not found:
                return
            self._received = rest
            if self._in_mail:
                self._in_mail = False
                renter = REPLY_TO.search(part)
                print(renter[1].decode() if renter else "-", time.monotonic())
                self._transport.write(b"250 taken\r\n")
            else:
                self._run_command(part[:4].upper())

    def _run_command(self, verb: bytes) -> None:
        self._in_mail = verb == b"DATA"
        self._transport.write(
            {
                b"EHLO": b"250-sink\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 SMTPUTF8\r\n",
                b"DATA": b"354 go on\r\n",
                b"QUIT": b"221 bye\r\n",
            }.get(verb, b"250 ok\r\n")
        )
        if verb == b"QUIT":
            self._transport.close()


async def main() -> None:
    """Accept mail until the process is ended. The first line of output has the URL."""
    server = await asyncio.get_running_loop().create_server(SmtpSession, "127.0.0.1", 0)
    print(f"at smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    while True:
        await asyncio.sleep(0.2)
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
