"""The dispatcher: claims due deliveries in the outbox, delivers them, and settles each by its outcome."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from jobs.adapter import Adapter, DeliveryContext, DeliveryError
from jobs.leases import Leases
from jobs.pacer import Pacer
from models.clock import Clock
from models.lead_record import ClaimedRecord, LeadWithBuilding, claim_records
from models.outbox.claims import Claim, Claimed
from models.outbox.delivery import ERASED, FAILED
from models.outbox.destination import EMAIL
from models.outbox.digests import MailRates, split_digest
from models.outbox.outcomes import LOST, Failure, FailureKind, Outcome, settle
from models.storage import OutcomeUnknown, Storage, StorageError, submit_and_wait

log = logging.getLogger("leads.outbox")

MAX_CONCURRENT = 4  # deliveries to one destination
# If all of these take longer, each further one is of a source that has none on its way: a destination may be
# slow to answer the leads of one source only.
SLOW_SECONDS = 2.0
MAX_SLOW = 16
SETTLE_RETRY_SECONDS = 1.0


class Dispatcher:
    """One worker for each kind of delivery, so that a slow or dead destination delays no other."""

    def __init__(
        self,
        adapters: Mapping[str, Adapter],
        storage: Storage,
        clock: Clock,
        mail_rates: MailRates | None = None,
    ) -> None:
        self._pacer = Pacer(lambda: storage.waited_seconds)
        self._leases = Leases(storage, clock, self.wake)
        self._workers = [
            KindWorker(
                kind,
                adapter,
                storage,
                clock,
                self._pacer,
                self._leases,
                mail_rates if kind == EMAIL else None,
            )
            for kind, adapter in adapters.items()
        ]

    def start(self) -> None:
        """Start the workers on the running loop."""
        self._leases.start()
        for worker in self._workers:
            worker.start()

    def wake(self) -> None:
        """Have every worker look for due deliveries now."""
        for worker in self._workers:
            worker.wake()

    def lead_committed(self) -> None:
        """Wake the workers because a lead was committed."""
        self._pacer.lead_committed()
        self.wake()

    async def stop(self, finish_seconds: float) -> None:
        """Claim no more, and wait so long for the running deliveries. The others are put back."""
        await asyncio.gather(*(worker.stop(finish_seconds) for worker in self._workers))
        await self._leases.stop()


@dataclass(frozen=True, slots=True)
class _Running:
    """A delivery on its way. source: of its lead. started: by the loop's clock."""

    source: str | None
    started: float


class KindWorker:
    """Claims, delivers and settles the deliveries of one kind, up to MAX_CONCURRENT at once."""

    def __init__(
        self,
        kind: str,
        adapter: Adapter,
        storage: Storage,
        clock: Clock,
        pacer: Pacer,
        leases: Leases,
        rates: MailRates | None = None,
    ) -> None:
        """rates: above which mails leave in digests; None: each leaves by itself."""
        self._kind = kind
        self._rates = rates
        self._adapter = adapter
        self._storage = storage
        self._clock = clock
        self._pacer = pacer
        self._leases = leases
        self._awake = asyncio.Event()
        self._running: dict[asyncio.Task[None], _Running] = {}

    def start(self) -> None:
        """Start the worker on the running loop."""
        self._task = asyncio.create_task(self._run(), name=f"worker {self._kind}")
        self.wake()

    def wake(self) -> None:
        """Look for due deliveries now."""
        self._awake.set()

    async def stop(self, finish_seconds: float) -> None:
        """Claim no more, wait so long for the running deliveries, then cancel them and close the adapter."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._running:
            await asyncio.wait(self._running, timeout=finish_seconds)
        unfinished = list(self._running)
        for delivery in unfinished:
            delivery.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        await self._adapter.close()

    async def _run(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            try:
                await self._deliver_due()
            except StorageError:
                pass  # the writer has logged it; the next tick tries again
            except Exception:
                log.exception("a delivery worker failed", extra={"kind": self._kind})

    async def _deliver_due(self) -> None:
        rest = self._pacer.rest_seconds()
        free = max(0, (1 if rest else MAX_CONCURRENT) - len(self._running))
        slow_sources = self._slow_sources()
        if not free and slow_sources is None:
            return  # the end of a running delivery wakes the worker again
        if rest:
            await asyncio.sleep(rest)
        # Shielded: if the worker is stopped, a claim that has begun may still be committed. Its deliveries
        # are then started, or given up.
        claiming = asyncio.ensure_future(self._claim(free, slow_sources))
        try:
            await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await asyncio.gather(claiming, return_exceptions=True)
            raise

    def _slow_sources(self) -> frozenset[str | None] | None:
        """Return the sources of the running deliveries if all of these are slow, and not too many."""
        running = self._running.values()
        since = asyncio.get_running_loop().time() - SLOW_SECONDS
        if not 0 < len(running) < MAX_SLOW or any(r.started > since for r in running):
            return None
        return frozenset(r.source for r in running)

    async def _claim(self, limit: int, slow_sources: frozenset[str | None] | None) -> None:
        loop = asyncio.get_running_loop()
        asked_ns = self._clock.monotonic_ns()
        claim = Claim(self._kind, limit, self._clock.now(), self._leases.server, slow_sources, self._rates)
        try:
            items = await submit_and_wait(
                self._storage, claim_records, claim, linger=self._pacer.leads_are_arriving
            )
        except OutcomeUnknown:
            self._leases.add_unknown(claim)
            raise
        self._leases.add((item.claimed for item in items), asked_ns)
        for batch in _by_digest(items):
            task = asyncio.create_task(self._deliver(batch))
            record = batch[0].record
            self._running[task] = _Running(record.source if record is not None else None, loop.time())
            task.add_done_callback(partial(self._finished, batch))

    def _finished(self, batch: Sequence[ClaimedRecord], task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled():  # else they are given up
            self._leases.remove(item.claimed for item in batch)
        self.wake()

    async def _deliver(self, items: Sequence[ClaimedRecord]) -> None:
        """Attempt a delivery, or the deliveries of a digest, and settle them."""
        now = self._clock.now()
        ended: list[Outcome] = []
        batches: dict[str | None, dict[Claimed, DeliveryContext]] = {}
        for item in items:
            if reason := _undeliverable_reason(item.record):
                failure = DeliveryError(reason, FailureKind.PERMANENT).failure
                ended.append(Outcome(item.claimed, now, failure))
            elif item.record is not None:
                context = delivery_context(item.claimed, item.record)
                # An agent's address may have changed since the digest was put together.
                recipient = self._adapter.recipient(context)
                key = recipient.lower() if recipient else None
                batches.setdefault(key, {})[item.claimed] = context
        if ended:
            await self._settle(ended)
        for batch in batches.values():
            if self._leases.begin(batch):
                await self._settle(await self._attempt(batch))
            else:
                ids = [claimed.delivery_id for claimed in batch]
                log.warning("too slow: a claim was over before its delivery began", extra={"deliveries": ids})
                await self._leases.give_up(batch)

    async def _attempt(self, batch: Mapping[Claimed, DeliveryContext]) -> list[Outcome]:
        failure = answer = None
        first = next(iter(batch.values()))
        try:
            if len(batch) == 1:
                answer = await self._adapter.deliver(first)
            else:
                answer = await self._adapter.deliver_digest(list(batch.values()))
        except DeliveryError as error:
            failure = error.failure
        except Exception as error:
            ids = [claimed.delivery_id for claimed in batch]
            log.exception("an adapter failed", extra={"deliveries": ids, "kind": self._kind})
            reason = f"the adapter failed: {type(error).__name__}"
            failure = Failure(reason, loggable=reason, content_sent=True)
        now, recipient = self._clock.now(), self._adapter.recipient(first)
        halves = split_digest([claimed.delivery_id for claimed in batch])
        return [
            Outcome(claimed, now, failure, recipient, answer, halves.get(claimed.delivery_id))
            for claimed in batch
        ]

    async def _settle(self, outcomes: Sequence[Outcome]) -> None:
        # Retried until it is stored: a delivery that left but is not settled would leave again.
        while True:
            try:
                states = await submit_and_wait(
                    self._storage, settle, outcomes, linger=self._pacer.leads_are_arriving
                )
                break
            except Exception as error:
                if not isinstance(error, StorageError):  # the writer has logged a StorageError
                    ids = [outcome.claimed.delivery_id for outcome in outcomes]
                    log.exception("can't settle", extra={"deliveries": ids})
                await asyncio.sleep(SETTLE_RETRY_SECONDS)
        for outcome, state in zip(outcomes, states, strict=True):
            self._log(outcome, state)
        self._leases.remove(outcome.claimed for outcome in outcomes)

    def _log(self, outcome: Outcome, state: str) -> None:
        failure = outcome.failure
        facts = {
            "kind": self._kind,
            "lead": outcome.claimed.lead_id,
            "delivery": outcome.claimed.delivery_id,
            "attempt": outcome.claimed.attempt,
            "state": state,
        }
        if state == LOST:
            facts["delivered"] = failure is None
            log.warning("too slow: another server took the delivery over", extra=facts)
            return
        if failure is None:
            log.info("delivered", extra=facts)
            return
        # These replies came before the renter was named, so they can't contain personal data. Others are kept
        # in the outbox alone.
        is_safe = failure.kind in (FailureKind.UNREACHABLE, FailureKind.NEEDS_OPERATOR)
        facts["reason"] = failure.reason if is_safe else failure.loggable
        if state == FAILED:
            log.error("a delivery is given up", extra=facts)
        else:
            log.warning("not delivered", extra=facts)


def _by_digest(items: Sequence[ClaimedRecord]) -> list[list[ClaimedRecord]]:
    """Return the deliveries that leave together: those of a digest, or one by itself."""
    groups: dict[object, list[ClaimedRecord]] = {}
    for item in items:
        claimed = item.claimed
        groups.setdefault(claimed if claimed.digest is None else claimed.digest, []).append(item)
    return list(groups.values())


def _undeliverable_reason(record: LeadWithBuilding | None) -> str | None:
    """Return why a lead can't leave; None if it can."""
    if record is None:
        return "the lead can't be read"
    return ERASED if record.lead["requestor_email"] is None else None


def delivery_context(claimed: Claimed, record: LeadWithBuilding) -> DeliveryContext:
    """Return what the adapter needs of a claimed delivery."""
    first_id = f"{record.request_id}-{claimed.kind}"
    return DeliveryContext(
        first_id if claimed.recipient is None else f"{first_id}-{claimed.delivery_id}",
        record.lead,
        record.building,
        claimed.recipient,
        claimed.content,
        claimed.sent_at,
        first_id,
    )
