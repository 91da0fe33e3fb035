"""A client that posts leads over one connection, and the ledger of the answers that clients got."""

import asyncio
import itertools
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from conftest import LEADS


class Disconnected(Exception):
    """The server closed the connection, or does not listen."""


@dataclass(frozen=True)
class Answer:
    """A response. headers: by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A client with one kept-alive connection, which it opens again after the server closed it."""

    def __init__(self, port: int, address: str | None = None) -> None:
        """address: of the client; by default the server's."""
        self._port = port
        self._local = None if address is None else (address, 0)
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a new connection. Raises OSError."""
        return await asyncio.open_connection("127.0.0.1", self._port, local_addr=self._local)

    async def send(self, request: bytes) -> Answer:
        """Send these bytes and return the response. Raises Disconnected."""
        try:
            if self._writer is None:
                self._reader, self._writer = await self.connect()
            self._writer.write(request)
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:-2])}
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
            if headers.get("connection") == "close":
                await self.close()
            return Answer(int(head[0].split()[1]), headers, body)
        except (OSError, EOFError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            await self.close()
            raise Disconnected from error

    async def post(self, body: bytes, media_type: str = "application/json", **headers: str) -> Answer:
        """POST this body to the leads and return the response. Raises Disconnected."""
        lines = [f"POST {LEADS} HTTP/1.1", "Host: leads.test", f"Content-Type: {media_type}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        return await self.send("\r\n".join(lines).encode() + body)

    async def close(self) -> None:
        """Close the connection, if one is open."""
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None


@dataclass
class Ledger:
    """The answers that clients got. acknowledged: the renter's address of each lead, by the lead's id."""

    acknowledged: dict[int, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)  # renters whose lead the server said was not stored
    answers: Counter[int] = field(default_factory=Counter)  # by status
    twice: int = 0  # ids that two different leads got

    def acknowledge(self, lead_id: int, email: str) -> None:
        """Note the id that a 201 gave to this renter's lead."""
        if self.acknowledged.setdefault(lead_id, email) != email:
            self.twice += 1


_numbers = itertools.count()


def lead_body(email: str, **fields: Any) -> bytes:
    """Return the JSON body of a lead from this renter, for the building with the token 'maple'."""
    return json.dumps({"token": "maple", "tour_request": {"requestor_email": email, **fields}}).encode()


def new_email() -> str:
    """Return an e-mail address that no other lead has."""
    return f"renter{next(_numbers)}@renter.test"


async def post_lead(client: Client, ledger: Ledger, email: str | None = None, **headers: str) -> Answer:
    """POST a lead, enter the answer in the ledger, and return it. Raises Disconnected."""
    email = email or new_email()
    answer = await client.post(lead_body(email, listing_source="june_homes"), **headers)
    ledger.answers[answer.status] += 1
    if answer.status == 201:
        ledger.acknowledge(json.loads(answer.body)["id"], email)
    elif b"the lead was not stored" in answer.body:
        ledger.refused.add(email)
    return answer
