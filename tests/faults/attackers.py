"""One hostile client, as a process of its own, so that its work takes no time of the renters' clients.

python tests/faults/attackers.py ATTACK PORT SIZE

It prints a line once the attack has begun. When its input ends it stops, and prints what it was `Told`.
"""

import asyncio
import itertools
import json
import resource
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TypedDict

ADDRESS = "127.0.0.2"
MAX_SECONDS = 60
PAUSE_SECONDS = 0.2  # between two requests of a client
TOKENS = 300  # of the rate limit, by default
START = "POST /api/v1/website_leads HTTP/1.1\r\nHost: leads.test\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Told(TypedDict):
    """What the attacker sent, and what it was told."""

    units: int  # of the attack, such as requests
    answers: dict[str, int]  # by status; `closed`: the connections that the server closed instead
    leads: dict[str, str]  # that the attacker stored: their renters' addresses, by id


def poisoned_key(number: int) -> str:
    """Return the Idempotency-Key of this number, which a renter's lead will bear."""
    return f"tour-{number}"


class Attacker:
    """The connections of one address, and what came back on them."""

    def __init__(self, port: int, size: int) -> None:
        """size: of the attack; each attack says what it counts."""
        self.size = size
        self.told: Told = {"units": 0, "answers": {}, "leads": {}}
        self.has_begun = asyncio.Event()
        self._port = port

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Open a connection for this block. If the server closes it, that ends the block."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(ADDRESS, 0))
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                yield reader, writer
            finally:
                writer.transport.abort()
        except (OSError, EOFError):
            self._count("closed")

    async def answer(self, reader: asyncio.StreamReader) -> tuple[str, bytes]:
        """Wait for an answer; return its status and its body."""
        status, _, headers = (await reader.readuntil(b"\r\n\r\n"))[9:].decode().partition(" ")
        self._count(status)
        length = headers.partition("Content-Length: ")[2].partition("\r\n")[0]
        return status, await reader.readexactly(int(length))

    def _count(self, answer: str) -> None:
        self.told["answers"][answer] = self.told["answers"].get(answer, 0) + 1

    async def repeat(self, requests: Iterable[bytes]) -> None:
        """Send each request on a connection of its own, after the answer to the one before it."""
        for request in requests:
            self.told["units"] += 1
            async with self.connection() as (reader, writer):
                writer.write(request)
                await self.answer(reader)
            await asyncio.sleep(PAUSE_SECONDS)


Attack = Callable[[Attacker], Awaitable[object]]
ATTACKS: dict[str, Attack] = {}


def attack(run: Attack) -> Attack:
    """Register an attack; its name is the function's, with hyphens."""
    ATTACKS[run.__name__.replace("_", "-")] = run
    return run


@attack
async def dripped_headers(attacker: Attacker) -> None:
    """size: bytes a second, on each of a hundred connections. A unit is a byte, in a packet of its own."""

    async def drip() -> None:
        while True:
            async with attacker.connection() as (reader, writer):
                writer.write(f"{START}X-A: ".encode() + b"\r\n\r" * 5_000)  # the slowest to search
                while not (reader.at_eof() or writer.is_closing()):
                    await asyncio.sleep(1 / attacker.size)
                    writer.write(b"a")
                    attacker.told["units"] += 1
                await attacker.answer(reader)
            await asyncio.sleep(5)  # a new connection takes the place of an older one

    attacker.has_begun.set()
    await asyncio.gather(*(drip() for _ in range(100)))


@attack
async def tiny_chunks(attacker: Attacker) -> None:
    """size: connections. A unit is a body of 1 MB. Ten are admitted, and then one a second."""
    async with attacker.connection() as (reader, writer):
        for _ in range(TOKENS - 10):
            writer.write(b"GET /api HTTP/1.1\r\nHost: leads.test\r\n\r\n")
            await attacker.answer(reader)
    body = f"{START}Transfer-Encoding: chunked\r\n\r\n".encode() + b"1\r\na\r\n" * 170_000 + b"0\r\n\r\n"
    attacker.has_begun.set()
    await asyncio.gather(*(attacker.repeat(itertools.repeat(body)) for _ in range(attacker.size)))


@attack
async def long_boundary(attacker: Attacker) -> None:
    """size: connections. A unit is a body of 64 KiB, in which each boundary differs in its last byte."""
    requests = []
    for length in (32_000, 15_000, 70, 1):
        near = "-" * (length + 3) + "x"
        body = near * (65_000 // len(near))
        media_type = f"multipart/form-data; boundary={'-' * length}"
        headers = f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        requests.append(f"{START}{headers}{body}".encode())
    every = itertools.cycle(requests)
    attacker.has_begun.set()
    await asyncio.gather(*(attacker.repeat(every) for _ in range(attacker.size)))


@attack
async def many_connections(attacker: Attacker) -> None:
    """size: connections; 2,000 a second are opened. A unit is a connection."""

    async def hold() -> None:
        attacker.told["units"] += 1
        async with attacker.connection() as (reader, _):
            await reader.readexactly(1)

    attacker.has_begun.set()
    async with asyncio.TaskGroup() as group:
        for _ in range(attacker.size // 20):
            for _ in range(20):
                group.create_task(hold())
            await asyncio.sleep(0.01)


@attack
async def many_headers(attacker: Attacker) -> None:
    """size: connections. A unit is a request. No body comes."""
    start = f"{START}Content-Length: 1000\r\n"
    requests = itertools.cycle(
        f"{start}{headers}\r\n".encode()
        for headers in (
            "".join(f"a{n}:\r\n" for n in range(8_500)),
            f"X-A: {'a' * 60_000}\r\n",
            "".join(f"X-{n}: {'a' * 150}\r\n" for n in range(98)),  # within the limits
        )
    )
    attacker.has_begun.set()
    await asyncio.gather(*(attacker.repeat(requests) for _ in range(attacker.size)))


@attack
async def poisoned_keys(attacker: Attacker) -> None:
    """size: keys, each sent once before the attack has begun. A unit is a request."""
    numbers = iter(range(attacker.size))

    async def poison(numbers: Iterable[int], pause: float) -> None:
        async with attacker.connection() as (reader, writer):
            for number in numbers:
                email = f"attacker{number}.{attacker.told['units']}@attacker.test"
                attacker.told["units"] += 1
                lead = {"requestor_email": email, "listing_source": "june_homes"}
                body = json.dumps({"token": "maple", "tour_request": lead})
                headers = f"Idempotency-Key: {poisoned_key(number)}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(f"{START}{headers}{body}".encode())
                status, answer = await attacker.answer(reader)
                if status == "201":
                    attacker.told["leads"][str(json.loads(answer)["id"])] = email
                await asyncio.sleep(pause)

    await asyncio.gather(*(poison(numbers, 0) for _ in range(8)))
    attacker.has_begun.set()
    while True:
        await poison(range(attacker.size), 0.002)
        await asyncio.sleep(PAUSE_SECONDS)


async def main(name: str, port: int, size: int) -> None:
    """Attack until the input ends, or for MAX_SECONDS."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    attacker, is_over = Attacker(port, size), asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, is_over.set)
    attacking = asyncio.ensure_future(ATTACKS[name](attacker))
    beginning = asyncio.ensure_future(attacker.has_begun.wait())
    await asyncio.wait({attacking, beginning}, return_when=asyncio.FIRST_COMPLETED)
    print("begun" if beginning.done() else attacking.exception(), flush=True)
    with suppress(TimeoutError):
        await asyncio.wait_for(is_over.wait(), MAX_SECONDS)
    print(json.dumps(attacker.told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
