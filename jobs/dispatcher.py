"""Owns the dispatching: claims what is due in the outbox, has it delivered, settles how it ended."""

import asyncio
import logging
from collections.abc import Mapping

from jobs.adapter import Adapter, DeliveryContext, DeliveryError
from jobs.pacer import Pacer
from models.clock import Clock
from models.lead_record import ClaimedRecord, claim_records
from models.outbox.claims import Claim, Failure, FailureKind, Outcome, settle
from models.outbox.delivery import ERASED
from models.storage import Storage, StorageError, submit_and_wait

log = logging.getLogger("leads.outbox")

AT_ONCE = 4  # deliveries on their way to one destination
SETTLE_AGAIN_SECONDS = 1.0


class Dispatcher:
    """A lane for each kind of delivery, so that a slow or dead destination delays no other."""

    def __init__(self, adapters: Mapping[str, Adapter], storage: Storage, clock: Clock) -> None:
        self._pacer = Pacer(lambda: storage.waited_seconds)
        self._workers = [
            KindWorker(kind, adapter, storage, clock, self._pacer) for kind, adapter in adapters.items()
        ]

    def start(self) -> None:
        """Start the lanes on the running loop."""
        for lane in self._workers:
            lane.start()

    def wake(self) -> None:
        """Look for what is due, now: time has passed."""
        for lane in self._workers:
            lane.wake()

    def lead_came(self) -> None:
        """The same, as a lead was committed."""
        self._pacer.lead_came()
        self.wake()

    async def stop(self, finish_seconds: float) -> None:
        """Claim nothing more and wait a while for what is on its way; the rest is sent at the next start."""
        await asyncio.gather(*(lane.stop(finish_seconds) for lane in self._workers))


class KindWorker:
    def __init__(self, kind: str, adapter: Adapter, storage: Storage, clock: Clock, pacer: Pacer) -> None:
        self._kind = kind
        self._adapter = adapter
        self._storage = storage
        self._clock = clock
        self._pacer = pacer
        self._awake = asyncio.Event()
        self._on_their_way: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"lane {self._kind}")
        self.wake()

    def wake(self) -> None:
        self._awake.set()

    async def stop(self, finish_seconds: float) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._on_their_way:
            await asyncio.wait(self._on_their_way, timeout=finish_seconds)
        left = list(self._on_their_way)
        for delivery in left:
            delivery.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._adapter.close()

    async def _run(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            try:
                await self._send_what_is_due()
            except StorageError:
                pass  # the writer has logged it; the next tick tries again
            except Exception:
                log.exception("a delivery worker failed", extra={"kind": self._kind})

    async def _send_what_is_due(self) -> None:
        rest = self._pacer.rest_seconds()
        free = (1 if rest else AT_ONCE) - len(self._on_their_way)
        if free <= 0:
            return  # whichever arrives first wakes the lane again
        if rest:
            await asyncio.sleep(rest)
        # A claim that was begun is seen through even if the lane is stopped: what it commits is then put
        # on its way, rather than left behind as sending.
        claiming = asyncio.ensure_future(self._claim(free))
        try:
            await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await asyncio.gather(claiming, return_exceptions=True)
            raise

    async def _claim(self, limit: int) -> None:
        claim = Claim(self._kind, limit, self._clock.now())
        for claimed in await submit_and_wait(
            self._storage, claim_records, claim, linger=self._pacer.leads_are_coming
        ):
            task = asyncio.create_task(self._deliver(claimed))
            self._on_their_way.add(task)
            task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._on_their_way.discard(task)
        self.wake()

    async def _deliver(self, item: ClaimedRecord) -> None:
        claimed, record = item.claimed, item.record
        try:
            if record is None:
                raise DeliveryError("the lead can't be read", FailureKind.PERMANENT)
            if record.lead["requestor_email"] is None:
                raise DeliveryError(ERASED, FailureKind.PERMANENT)
            await self._adapter.deliver(
                DeliveryContext(f"{record.request_id}-{claimed.kind}", record.lead, record.building)
            )
            failure = None
        except DeliveryError as error:
            failure = error.failure
        except Exception as error:
            log.exception("an adapter failed", extra={"delivery": claimed.delivery_id, "kind": self._kind})
            failure = Failure(f"the adapter failed: {type(error).__name__}")
        await self._settle(Outcome(claimed, self._clock.now(), failure))

    async def _settle(self, outcome: Outcome) -> None:
        # What has left must be known to have left, or it leaves again: the disk is asked until it takes it.
        while True:
            try:
                state = await submit_and_wait(
                    self._storage, settle, outcome, linger=self._pacer.leads_are_coming
                )
                break
            except Exception as error:
                if not isinstance(error, StorageError):  # that one the writer has logged
                    log.exception("can't settle", extra={"delivery": outcome.claimed.delivery_id})
                await asyncio.sleep(SETTLE_AGAIN_SECONDS)
        failure = outcome.failure
        facts = {
            "kind": self._kind,
            "lead": outcome.claimed.lead_id,
            "delivery": outcome.claimed.delivery_id,
            "attempt": outcome.claimed.attempt,
            "state": state,
        }
        if failure is None:
            log.info("delivered", extra=facts)
            return
        # What was said before the renter was named can't name them; the rest is in the outbox alone.
        if failure.verdict in (FailureKind.UNREACHABLE, FailureKind.NEEDS_OPERATOR):
            facts["reason"] = failure.reason
        log.warning("not delivered", extra=facts)
