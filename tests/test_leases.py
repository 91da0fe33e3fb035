"""Leases of deliveries: claimed by one server, taken over from a dead one, lost by a slow one."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import ACTOR, NOW, submission
from databases import take_over_seen
from postgresql import database_url, forget

from models import settings
from models.building_actions import add_building
from models.customer import flag_spam
from models.daily_count import add_counts
from models.database import command_storage
from models.erasure import erase_customer
from models.intake import Recorded, record_leads
from models.lead_record import claim_records, show_lead
from models.outbox import actions
from models.outbox.claims import CUT_OFF, LEASE, Claim, Claimed, claim, open_outbox
from models.outbox.delivery import ERASED, Delivery
from models.outbox.destination import EMAIL, JUNE_HOMES, Destination
from models.outbox.digests import form_digests
from models.outbox.leases import NOT_BEGUN, give_up, give_up_unknown, renew, take_over
from models.outbox.outcomes import LOST, Failure, FailureKind, Outcome, settle
from models.storage import BlockingStorage
from models.storage.write_queue import Request, apply_operations

LATER = NOW + LEASE + timedelta(seconds=1)
A, B = "server-a", "server-b"


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlockingStorage]:
    """A database with one building, and an outbox that sends."""
    given = {"data_dir": str(tmp_path)}
    if request.param == "postgresql":
        given["database_url"] = database_url(tmp_path)
    with command_storage(settings.load(given, environment={})) as storage:
        fields = {"name": "The Maple", "agent_email": "agent@maple.test"}
        storage.write(add_building, ACTOR, fields, "maple", NOW)
        storage.write(open_outbox, frozenset({EMAIL, JUNE_HOMES}))
        yield storage
    if request.param == "postgresql":
        forget(tmp_path)


def add_leads(storage: BlockingStorage, count: int, **fields: Any) -> list[int]:
    leads = [submission(email=f"r{number}@renter.test", phone=None, **fields) for number in range(count)]
    recorded = storage.write(record_leads, leads)
    return [lead.lead_id for lead in recorded if isinstance(lead, Recorded)]


def claimed(storage: BlockingStorage, server: str, limit: int = 9, now: Any = NOW) -> list[Claimed]:
    [found] = storage.write(claim, [Claim(EMAIL, limit, now, server)])
    return found


def delivered(claim: Claimed, answer: str = "250 queued as 1A", now: Any = NOW) -> Outcome:
    return Outcome(claim, now, None, "agent@maple.test", answer)


def failed(claim: Claimed, kind: FailureKind = FailureKind.TRANSIENT, now: Any = NOW) -> Outcome:
    return Outcome(claim, now, Failure("451 Jane who?", kind), "agent@maple.test")


def settled(storage: BlockingStorage, *outcomes: Outcome) -> list[str]:
    [states] = storage.write(settle, [outcomes])
    return states


def row(storage: BlockingStorage, row_id: int = 1) -> Delivery:
    found: Delivery = storage.read(Delivery.get_by_id, row_id)
    return found


def ledger(storage: BlockingStorage, lead_id: int = 1) -> list[tuple[Any, ...]]:
    lead = storage.read(show_lead, lead_id)
    assert lead is not None
    return [(a["outcome"], a["answer"], a["ended_at"] is not None) for a in lead["attempts"]]


def test_a_delivery_is_claimed_by_one_server(storage: BlockingStorage) -> None:
    add_leads(storage, 5)
    first, second = claimed(storage, A, 3), claimed(storage, B)
    assert [c.delivery_id for c in first + second] == [1, 2, 3, 4, 5]
    assert {c.server for c in first} == {A}
    assert (row(storage).claimed_by, row(storage).claimed_until) == (A, NOW + LEASE)


def test_only_claims_of_a_dead_server_are_taken_over(storage: BlockingStorage) -> None:
    add_leads(storage, 2)
    [dead] = claimed(storage, A, 1)
    [alive] = claimed(storage, B, 1)
    renewed_at = NOW + timedelta(seconds=30)
    assert storage.write(renew, B, [alive], renewed_at) == {2}
    assert storage.write(take_over_seen, NOW + LEASE - timedelta(seconds=1)) == []
    assert storage.write(take_over_seen, LATER) == [1]
    assert storage.write(take_over_seen, LATER) == []
    [again] = claimed(storage, B, now=LATER)
    assert (again.delivery_id, again.attempt, again.sent_at) == (1, 2, dead.sent_at)  # the same Date
    assert ledger(storage) == [(CUT_OFF, None, False), (None, None, False)]


def test_a_lease_that_is_renewed_after_a_look_is_kept(storage: BlockingStorage) -> None:
    add_leads(storage, 2)
    [alive] = claimed(storage, A, 1)
    [dead] = claimed(storage, B, 1)
    after_step = NOW + timedelta(minutes=5)  # of the database's clock, which server A has not seen yet
    ids, over = storage.write(take_over, set(), after_step)
    assert (ids, over) == ([], {(1, NOW + LEASE), (2, NOW + LEASE)})
    storage.write(renew, A, [alive], NOW + timedelta(seconds=5))
    assert storage.write(take_over, over, after_step) == ([2], {(1, NOW + timedelta(seconds=5) + LEASE)})
    assert settled(storage, delivered(alive)) == ["delivered"]


def test_a_claim_of_unknown_outcome_is_put_back(storage: BlockingStorage) -> None:
    add_leads(storage, 3)
    lost = Claim(EMAIL, 2, NOW, A)
    storage.write(claim, [lost])
    [known] = claimed(storage, A, now=NOW + timedelta(seconds=1))
    assert storage.write(give_up_unknown, [lost, Claim(EMAIL, 9, NOW, B)], NOW) == [1, 2]
    assert storage.write(give_up_unknown, [lost], NOW) == []
    assert (row(storage).state, row(storage).sent_at, row(storage, 3).claimed_by) == ("pending", None, A)
    assert ledger(storage) == [(NOT_BEGUN, None, True)]
    assert settled(storage, delivered(known)) == ["delivered"]


def test_a_claim_without_a_lease_is_taken_over(storage: BlockingStorage) -> None:
    add_leads(storage, 1)
    claimed(storage, A)
    storage.write(lambda: Delivery.update(claimed_by=None, claimed_until=None).execute())
    assert storage.write(take_over_seen, NOW) == [1]


def test_a_late_outcome_leaves_the_new_attempt_alone(storage: BlockingStorage) -> None:
    add_leads(storage, 1)
    [slow] = claimed(storage, A)
    storage.write(take_over_seen, LATER)
    [again] = claimed(storage, B, now=LATER)
    assert settled(storage, failed(slow, FailureKind.PERMANENT)) == [LOST]
    assert (row(storage).state, row(storage).claimed_by, row(storage).failures) == ("sending", B, 0)
    assert settled(storage, delivered(slow, "250 queued as A")) == [LOST]
    assert (row(storage).state, row(storage).claimed_by) == ("sending", B)
    assert settled(storage, delivered(again, "250 queued as B")) == ["delivered"]
    assert ledger(storage) == [("delivered", "250 queued as A", True), ("delivered", "250 queued as B", True)]


def test_a_late_failure_leaves_what_followed_alone(storage: BlockingStorage) -> None:
    add_leads(storage, 1)
    [slow] = claimed(storage, A)
    storage.write(take_over_seen, LATER)
    [again] = claimed(storage, B, now=LATER)
    settled(storage, delivered(again, now=LATER))
    assert settled(storage, failed(slow, FailureKind.UNREACHABLE)) == [LOST]
    assert row(storage).state == "delivered"
    assert storage.read(Destination.get_by_id, EMAIL).failures == 0
    assert ledger(storage)[0] == ("451 Jane who?", None, True)


def test_a_server_that_claims_anew_has_lost_its_first_claim(storage: BlockingStorage) -> None:
    add_leads(storage, 1)
    [slow] = claimed(storage, A)
    storage.write(take_over_seen, LATER)
    [again] = claimed(storage, A, now=LATER)
    assert storage.write(renew, A, [slow], LATER) == set()
    assert settled(storage, failed(slow)) == [LOST]
    storage.write(give_up, A, [slow], [], LATER)
    assert row(storage).state == "sending"
    assert storage.write(renew, A, [again], LATER) == {1}


def test_mail_that_was_accepted_late_is_not_sent_again(storage: BlockingStorage) -> None:
    add_leads(storage, 1)
    [slow] = claimed(storage, A)
    storage.write(take_over_seen, LATER)
    assert settled(storage, delivered(slow)) == ["delivered"]
    assert (row(storage).state, claimed(storage, B, now=LATER)) == ("delivered", [])
    assert ledger(storage) == [("delivered", "250 queued as 1A", True)]


def test_a_late_success_does_not_undo_a_skip(storage: BlockingStorage) -> None:
    add_leads(storage, 1)
    [slow] = claimed(storage, A)
    storage.write(take_over_seen, LATER)
    storage.write(actions.skip_deliveries, ACTOR, [1], LATER)
    assert settled(storage, delivered(slow)) == [LOST]
    assert row(storage).state == "skipped"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("outcome", [delivered, failed])
def test_an_outcome_after_an_erasure_keeps_no_answer(
    storage: BlockingStorage, outcome: Any, late: bool
) -> None:
    add_leads(storage, 1)
    [claim] = claimed(storage, A)
    if late:
        storage.write(take_over_seen, LATER)
        [again] = claimed(storage, B, now=LATER)
        settled(storage, delivered(again, now=LATER))
    storage.write(erase_customer, ACTOR, 1, LATER)
    settled(storage, outcome(claim))
    assert ledger(storage)[0] == ("delivered" if outcome is delivered else ERASED, None, True)


def test_claims_are_given_up_at_once(storage: BlockingStorage) -> None:
    add_leads(storage, 2)
    begun, not_begun = claimed(storage, A)
    storage.write(give_up, A, [begun], [not_begun], NOW)
    assert [(row(storage, i).state, row(storage, i).claimed_by) for i in (1, 2)] == [("pending", None)] * 2
    assert (row(storage, 1).sent_at, row(storage, 2).sent_at) == (NOW, None)
    assert ledger(storage, 1) == [(CUT_OFF, None, False)]
    assert ledger(storage, 2) == [(NOT_BEGUN, None, True)]
    assert len(claimed(storage, B)) == 2


def test_a_claim_that_was_settled_is_not_given_up(storage: BlockingStorage) -> None:
    add_leads(storage, 1)
    [claim] = claimed(storage, A)
    settled(storage, delivered(claim))
    storage.write(give_up, A, [claim], [], NOW)
    assert storage.write(renew, A, [claim], NOW) == set()
    assert row(storage).state == "delivered"


def test_a_start_puts_back_what_no_other_server_can_be_sending(storage: BlockingStorage) -> None:
    add_leads(storage, 1)
    claimed(storage, A)
    storage.write(open_outbox, frozenset({EMAIL, JUNE_HOMES}))
    is_shared = "Postgres" in type(storage).__name__
    assert row(storage).state == ("sending" if is_shared else "pending")
    assert len(storage.write(take_over_seen, LATER)) == is_shared


def test_a_digest_is_claimed_and_taken_over_as_one(storage: BlockingStorage) -> None:
    add_leads(storage, 5)
    storage.write(lambda: Delivery.update(digest=0).execute())
    storage.write(form_digests, NOW)
    assert [c.delivery_id for c in claimed(storage, A, 1)] == [1, 2, 3, 4, 5]
    assert claimed(storage, B) == []
    assert storage.write(take_over_seen, LATER) == [1, 2, 3, 4, 5]
    assert {c.digest for c in claimed(storage, B, 1, LATER)} == {1}


def test_a_broken_destination_is_probed_once_over_all_servers(storage: BlockingStorage) -> None:
    add_leads(storage, 9)
    [first] = claimed(storage, A, 1)
    settled(storage, failed(first, FailureKind.UNREACHABLE))
    assert claimed(storage, A) == claimed(storage, B) == []
    probe = claimed(storage, A, now=LATER)
    assert len(probe) == 1 and claimed(storage, B, now=LATER) == []
    settled(storage, failed(probe[0], FailureKind.UNREACHABLE, LATER))
    assert claimed(storage, B, now=LATER) == []


def test_a_dead_probe_is_followed_by_another(storage: BlockingStorage) -> None:
    add_leads(storage, 2)
    [first] = claimed(storage, A, 1)
    settled(storage, failed(first, FailureKind.UNREACHABLE))
    assert len(claimed(storage, A, now=LATER)) == 1
    assert claimed(storage, B, now=LATER + LEASE) == []
    assert len(storage.write(take_over_seen, LATER + LEASE)) == 1
    assert len(claimed(storage, B, now=LATER + LEASE)) == 1


def test_a_start_leaves_the_breaker_of_other_servers(storage: BlockingStorage) -> None:
    add_leads(storage, 5)
    [first] = claimed(storage, A, 1)
    settled(storage, failed(first, FailureKind.NEEDS_OPERATOR))
    storage.write(open_outbox, frozenset({EMAIL, JUNE_HOMES}))
    is_shared = "Postgres" in type(storage).__name__
    probes = claimed(storage, B)
    assert len(probes) == (1 if is_shared else 5)  # one probe at once, or all
    settled(storage, *map(delivered, probes))
    assert len(claimed(storage, B)) == (4 if is_shared else 0)


def test_a_trip_keeps_the_pause_and_a_pause_keeps_the_trip(storage: BlockingStorage) -> None:
    add_leads(storage, 2)
    first, second = claimed(storage, A)
    storage.write(actions.pause, ACTOR, EMAIL, NOW)
    settled(storage, failed(first, FailureKind.UNREACHABLE))
    found = storage.read(Destination.get_by_id, EMAIL)
    assert (bool(found.paused), found.failures) == (True, 1)
    storage.write(actions.pause, ACTOR, EMAIL, NOW, "again")
    assert storage.read(Destination.get_by_id, EMAIL).failures == 1


def test_a_flagged_customer_keeps_what_was_filled_in(storage: BlockingStorage) -> None:
    add_leads(storage, 1, name=None)
    storage.write(flag_spam, ACTOR, 1, True, NOW)
    add_leads(storage, 1, name="Jane")
    customer = storage.write(flag_spam, ACTOR, 1, False, NOW)
    assert (customer.name, bool(customer.spam)) == ("Jane", False)


def test_operations_of_a_batch_run_in_the_order_of_locks() -> None:
    def action(items: list[None]) -> list[None]:
        return items

    operations = [add_counts, claim_records, settle, action, record_leads]
    ran: list[object] = []

    def note(operation: Any) -> Any:
        def run(items: Any) -> Any:
            ran.append(operation)
            return items

        if hasattr(operation, "place"):
            run.place = operation.place  # type: ignore[attr-defined]
        return run

    batch = [Request(note(operation), None, lambda _: None) for operation in operations]
    apply_operations(batch, None)
    assert ran == [record_leads, action, settle, claim_records, add_counts]
