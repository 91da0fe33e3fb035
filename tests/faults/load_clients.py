"""Clients that put a server under load."""

import asyncio

from launched_server import LaunchedServer
from lead_client import Disconnected, Ledger, new_email, post_lead


class LoadClients:
    """Clients that each post one lead after the other, on their own connection, until they are stopped."""

    def __init__(
        self,
        server: LaunchedServer,
        ledger: Ledger,
        count: int = 16,
        *,
        pause: float = 0.0,
        keyed: bool = False,
    ) -> None:
        """pause: seconds after each 201. keyed: each lead has an Idempotency-Key."""
        self._server, self._ledger, self._pause, self._keyed = server, ledger, pause, keyed
        self._stopping = asyncio.Event()
        self._tasks = [asyncio.create_task(self._post()) for _ in range(count)]

    async def _post(self) -> None:
        client = self._server.client()
        while not self._stopping.is_set():
            try:
                email = new_email()
                key = {"Idempotency_Key": email} if self._keyed else {}
                answer = await post_lead(client, self._ledger, email, **key)
            except Disconnected:
                break
            await asyncio.sleep(0.02 if answer.status != 201 else self._pause)
        await client.close()

    async def reach(self, count: int) -> None:
        """Wait until the ledger has so many acknowledged leads, or no client is left."""
        while len(self._ledger.acknowledged) < count and not all(task.done() for task in self._tasks):
            await asyncio.sleep(0.002)

    async def stop(self) -> None:
        """Let each client receive the answer to its last lead, and stop."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
