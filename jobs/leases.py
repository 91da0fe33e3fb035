"""The leases of this server's claims, while their deliveries are on their way."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable

from models.clock import Clock
from models.outbox.claims import LEASE, Claim, Claimed
from models.outbox.leases import Lease, give_up, give_up_unknown, renew, take_over
from models.storage import Storage, StorageError

log = logging.getLogger("leads.outbox")

# How often leases are renewed, and those of other servers are looked at. So a claim of a dead server is taken
# over within a lease and twice this.
LOOK_SECONDS = 5.0
LEASE_NS = int(LEASE.total_seconds() * 1e9)


class Leases:
    """Knows which claims this server has, and until when. Where no other server can be, no lease ends."""

    def __init__(self, storage: Storage, clock: Clock, wake: Callable[[], None]) -> None:
        """wake: called when deliveries of another server were taken over."""
        self.server = secrets.token_hex(4)  # its id in the database, new at each start
        self._storage = storage
        self._clock = clock
        self._wake = wake
        self._ends_ns: dict[Claimed, int] = {}  # by the monotonic clock
        self._begun: set[Claimed] = set()
        self._unknown: list[Claim] = []  # may have been committed
        self._over: set[Lease] = set()  # leases of other servers, at the last look
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Renew leases and take others over from now on, if other servers share the database."""
        if self._storage.is_shared:
            self._task = asyncio.create_task(self._run(), name="leases")

    async def stop(self) -> None:
        """Give up the claims that are left at a stop, so that no delivery waits for its lease to end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.give_up(list(self._ends_ns))

    def add(self, claims: Iterable[Claimed], asked_ns: int) -> None:
        """Hold these claims. asked_ns: the monotonic clock when their lease began."""
        self._ends_ns |= dict.fromkeys(claims, asked_ns + LEASE_NS)

    def add_unknown(self, claim: Claim) -> None:
        """Take note of a claim whose commit has an unknown outcome. What it took is put back soon."""
        self._unknown.append(claim)

    def begin(self, claims: Iterable[Claimed]) -> bool:
        """Return True if deliveries may begin. Return False if a lease is over: another server may begin."""
        now_ns = self._clock.monotonic_ns()
        claims = list(claims)
        if self._storage.is_shared and any(self._ends_ns.get(claim, 0) <= now_ns for claim in claims):
            return False
        self._begun.update(claims)
        return True

    def remove(self, claims: Iterable[Claimed]) -> None:
        """Hold these claims no longer, as they are settled."""
        for claim in claims:
            self._ends_ns.pop(claim, None)
            self._begun.discard(claim)

    async def give_up(self, claims: Iterable[Claimed]) -> None:
        """Put the deliveries of these claims back, unless another server has them."""
        claims = list(claims)
        if not claims:
            return
        begun = [claim for claim in claims if claim in self._begun]
        not_begun = [claim for claim in claims if claim not in self._begun]
        self.remove(claims)
        try:
            await self._storage.write(give_up, self.server, begun, not_begun, self._clock.now())
        except StorageError:
            pass  # the writer has logged it; the leases end, or on SQLite the next start puts them back
        except Exception:
            log.exception("claims can't be given up", extra={"deliveries": [c.delivery_id for c in claims]})

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except StorageError:
                pass  # the writer has logged it
            except Exception:
                log.exception("leases can't be renewed")
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        # First the own ones: after a long stall they are kept if no other server has taken them over.
        if held := list(self._ends_ns):
            asked_ns = self._clock.monotonic_ns()
            renewed = await self._storage.write(renew, self.server, held, self._clock.now())
            for claim in held:
                if claim.delivery_id in renewed and claim in self._ends_ns:
                    self._ends_ns[claim] = asked_ns + LEASE_NS
        if unknown := list(self._unknown):
            if await self._storage.write(give_up_unknown, unknown, self._clock.now()):
                self._wake()
            del self._unknown[: len(unknown)]
        ids, self._over = await self._storage.write(take_over, self._over, self._clock.now())
        if ids:
            log.warning("deliveries of a server that stopped are taken over", extra={"deliveries": ids})
            self._wake()
