"""A client that sends leads at a steady rate, however long the answers take.

python bench/pace.py URL RATE SECONDS [CONNECTIONS]    leads a second; 0: the next one after each answer

A latency counts from the moment at which the request is due, so that a stall counts for every request that it
delays. Prints one JSON object: status counts, latencies in ms, and the moment of each 201 by renter.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter, deque
from urllib.parse import urlsplit

MESSAGE = "Is it still free? I could come by on any evening of next week, and have a cat."


def lead(number: int) -> tuple[str, bytes]:
    """Return the address and the body of a lead from a new renter."""
    email = f"{random.getrandbits(32):x}.{number}@renter.example"
    phone = f"(2{random.randrange(100):02d}) {random.randrange(200, 999)}-{random.randrange(10_000):04d}"
    tour_request = {
        "requestor_name": f"Jane Doe {number}",
        "requestor_email": email,
        "requestor_phone": phone,
        "message": MESSAGE,
        "unit_preference": "4B",
        "slot": "2026-12-01T10:00",
        "utm_data": "utm_source=bench&utm_medium=web",
        "listing_source": "zillow",
        "sms_consent": "true",
    }
    return email, json.dumps({"token": "bench", "tour_request": tour_request}).encode()


class Connection(asyncio.Protocol):
    """Client connection: one request at a time."""

    def __init__(self, pace: "Pace") -> None:
        self._pace = pace
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, due: float) -> None:
        """Send a lead that is due at this moment of `time.monotonic`."""
        self._due = due
        self._email, body = lead(next(self._pace.numbers))
        self._transport.write(self._pace.head % len(body) + body)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        if b" 204 " not in head[:16]:
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(body) < length:
                return
        self._received = b""
        self._pace.answered(self, int(head[9:12]), self._due, self._email)

    def connection_lost(self, error: Exception | None) -> None:
        self._pace.lost()


class Pace:
    """A steady rate of requests over some connections, and what was measured."""

    def __init__(self, url: str, rate: float, seconds: float, connections: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self.head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            "Content-Length: %d\r\n\r\n"
        ).encode()
        self._rate, self._seconds, self._connections = rate, seconds, connections
        self.numbers = iter(range(10**9))
        self._idle: deque[Connection] = deque()
        self._waiting: deque[float] = deque()
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.accepted: dict[str, float] = {}

    def answered(self, connection: Connection, status: int, due: float, email: str) -> None:
        """Record an answer, and send the next lead over the connection if one is due."""
        now = time.monotonic()
        self.statuses[str(status)] += 1
        self.latencies.append(1e3 * (now - due))
        if status == 201:
            self.accepted[email] = now
        if self._waiting:
            connection.send(self._waiting.popleft())
        elif not self._rate and now < self._ends:
            connection.send(now)
        else:
            self._idle.append(connection)

    def lost(self) -> None:
        """Count a connection that the server closed."""
        self.statuses["lost"] += 1

    async def run(self) -> None:
        """Send leads for the given time, and wait up to ten seconds for the last answers."""
        loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            _, connection = await loop.create_connection(lambda: Connection(self), self._host, self._port)
            self._idle.append(connection)
        began = time.monotonic()
        self._ends = began + self._seconds
        if not self._rate:
            for connection in list(self._idle):
                self._idle.popleft().send(began)
            await asyncio.sleep(self._seconds)
        for number in range(int(self._rate * self._seconds)):
            due = began + number / self._rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            if self._idle:
                self._idle.popleft().send(due)
            else:
                self._waiting.append(due)
        for _ in range(1_000):
            if len(self._idle) == self._connections:
                break
            await asyncio.sleep(0.01)


def main(url: str, rate: str, seconds: str, connections: str = "64") -> None:
    """Send leads, and print the measurements."""
    pace = Pace(url, float(rate), float(seconds), int(connections))
    asyncio.run(pace.run())
    print(json.dumps({"statuses": pace.statuses, "ms": pace.latencies, "accepted": pace.accepted}))


if __name__ == "__main__":
    main(*sys.argv[1:])
