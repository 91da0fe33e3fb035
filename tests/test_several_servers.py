"""Several servers on one PostgreSQL: what they do at the same time, and what one does for another."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import ACTOR, NOW, submission
from databases import take_over_seen
from postgresql import NOT_FOUND, binaries, database_url, forget

from models import settings
from models.building_actions import add_building, rotate_token, update_building
from models.customer import Customer, flag_spam
from models.daily_count import DailyCount, add_counts
from models.database import command_storage
from models.deal import Deal
from models.erasure import erase_customer
from models.errors import ActionError
from models.idempotency import KeyedRequest
from models.intake import KeyReused, Recorded, record_leads
from models.lead import Lead
from models.lead_actions import assign_lead, correct_slot, send_lead
from models.outbox import actions
from models.outbox.claims import LEASE, Claim, claim, open_outbox
from models.outbox.delivery import Delivery, lock_deliveries
from models.outbox.destination import EMAIL, JUNE_HOMES, Destination, trip
from models.outbox.digests import MailRates, form_digests
from models.outbox.leases import renew
from models.outbox.outcomes import Failure, FailureKind, Outcome, settle
from models.secret import SecretKeys
from models.spam import RecentText
from models.storage import BlockingStorage

pytestmark = pytest.mark.skipif(binaries() is None, reason=NOT_FOUND)

SECRET = SecretKeys((b"x" * 32,))
SHARED_SECRET = "c2VjcmV0" * 6


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A database of its own, with one building."""
    url = database_url(tmp_path)
    with command_storage(settings.load({"database_url": url}, environment={})) as storage:
        fields = {"name": "The Maple", "agent_email": "agent@maple.test", "spam_defence": "mark"}
        storage.write(add_building, ACTOR, fields, "maple", NOW)
        storage.write(open_outbox, frozenset({EMAIL, JUNE_HOMES}))
    yield url
    forget(tmp_path)


@pytest.fixture
def storage(url: str) -> Iterator[BlockingStorage]:
    with command_storage(settings.load({"database_url": url}, environment={})) as storage:
        yield storage


def at_once(storage: BlockingStorage, *works: Callable[[], None]) -> None:
    """Run these in a thread and with a connection each, as servers and commands do; raise what one raises."""
    from models.storage.postgres.connection import close_database

    together = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        try:
            together.wait()
            work()
        finally:
            close_database()

    with ThreadPoolExecutor(len(works)) as threads:
        for done in [threads.submit(run, work) for work in works]:
            done.result()


def deadlocks(storage: BlockingStorage) -> int:
    from models.storage.rows import database

    rows = storage.read(
        lambda: list(
            database.execute_sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        )
    )
    return int(rows[0][0])


def test_C19_one_customer_for_renters_that_meet_on_two_servers(storage: BlockingStorage) -> None:
    emails = [f"r{n}@renter.test" for n in range(12)]
    phones = [f"+1212555{n:04}" for n in range(100, 106)]

    def server(seed: int) -> Callable[[], None]:
        rng = random.Random(seed)

        def run() -> None:
            for _ in range(40):
                batch = [
                    submission(
                        email=rng.choice(emails),
                        phone=rng.choice([*phones, None, None]),
                        name=rng.choice(["Ann", None]),
                    )
                    for _ in range(rng.randint(1, 8))
                ]
                assert len(storage.write(record_leads, batch)) == len(batch)

        return run

    at_once(storage, *map(server, range(4)))
    customers = storage.read(lambda: list(Customer.select()))
    keys = Counter(customer.email_key for customer in customers)
    assert keys and max(keys.values()) == 1
    by_id = {customer.id: customer for customer in customers}
    leads = storage.read(lambda: list(Lead.select()))
    for lead in leads:
        customer = by_id[lead.customer_id]
        assert lead.requestor_email == customer.email_key or lead.requestor_phone == customer.phone
    assert storage.read(lambda: Deal.select().count()) == len(leads)
    assert storage.read(lambda: Delivery.select().count()) == len(leads)
    assert deadlocks(storage) == 0


def test_C19_one_new_customer_for_one_phone(storage: BlockingStorage) -> None:
    def server(name: str) -> Callable[[], None]:
        def run() -> None:
            for number in range(40):
                lead = submission(email=f"{name}{number}@renter.test", phone=f"+1212555{number:04}")
                storage.write(record_leads, [lead])

        return run

    at_once(storage, *map(server, "abc"))
    phones = Counter(storage.read(lambda: [c.phone_key for c in Customer.select()]))
    assert len(phones) == 40 and set(phones.values()) == {1}


def keyed(number: int, body: bytes = b"body", source: str = "198.51.100.7") -> Any:
    key = KeyedRequest(f"key-{number}", source, body, SECRET)
    return submission(email=f"k{number}@renter.test", keyed_request=key)


def test_C20_one_lead_for_a_key_that_meets_on_two_servers(storage: BlockingStorage) -> None:
    answers: list[tuple[int, Recorded | KeyReused]] = []

    def server(seed: int) -> Callable[[], None]:
        rng = random.Random(seed)

        def run() -> None:
            for round in range(30):
                numbers = [round * 4 + n for n in range(4)]
                rng.shuffle(numbers)
                answers.extend(
                    zip(numbers, storage.write(record_leads, [keyed(number) for number in numbers]))
                )

        return run

    at_once(storage, *map(server, range(4)))
    ids = {(number, answer.lead_id) for number, answer in answers if isinstance(answer, Recorded)}
    assert len(answers) == 4 * 120 and len(ids) == 120
    assert storage.read(lambda: Lead.select().count()) == 120
    assert sum(not answer.replayed for _, answer in answers if isinstance(answer, Recorded)) == 120
    assert deadlocks(storage) == 0


def test_C20_expired_keys_are_deleted_by_two_servers(storage: BlockingStorage) -> None:
    storage.write(record_leads, [keyed(number) for number in range(100)])

    def server(seed: int) -> Callable[[], None]:
        def run() -> None:
            for number in range(20):
                lead = keyed(1_000 + 100 * seed + number)
                at = NOW + timedelta(hours=25, minutes=number)
                storage.write(record_leads, [_at(lead, at)])

        return run

    at_once(storage, *map(server, range(3)))
    assert storage.read(lambda: Lead.select().count()) == 160


def _at(lead: Any, at: datetime) -> Any:
    from dataclasses import replace

    return replace(lead, received_at=at)


def test_a_flood_is_counted_over_all_servers(storage: BlockingStorage) -> None:
    def server(name: str) -> Callable[[], None]:
        def run() -> None:
            for number in range(10):
                lead = submission(
                    email="flood@renter.test", message="Buy now", secret=lambda: SECRET, source="198.51.100.0"
                )
                storage.write(record_leads, [lead])

        return run

    at_once(storage, *map(server, "abcd"))
    suspected = storage.read(lambda: [bool(lead.suspected) for lead in Lead.select().order_by(Lead.id)])
    assert suspected.count(False) == 5
    assert storage.read(lambda: RecentText.select().count()) == 40


def test_daily_counts_of_servers_add_up(storage: BlockingStorage) -> None:
    def server() -> None:
        for _ in range(50):
            storage.write(add_counts, [("dry_runs", NOW, 1), ("other", NOW, 2)])

    at_once(storage, server, server, server)
    assert storage.read(lambda: {c.name: c.count for c in DailyCount.select()}) == {
        "dry_runs": 150,
        "other": 300,
    }


def test_servers_share_the_outbox_and_send_each_mail_once(storage: BlockingStorage) -> None:
    storage.write(record_leads, [submission(email=f"r{n}@renter.test") for n in range(200)])
    sent: list[int] = []

    def server(name: str) -> Callable[[], None]:
        def run() -> None:
            while True:
                [claims] = storage.write(claim, [Claim(EMAIL, 4, NOW, name)])
                if not claims:
                    return
                sent.extend(claimed.delivery_id for claimed in claims)
                storage.write(renew, name, claims, NOW)
                storage.write(settle, [[Outcome(claimed, NOW, answer="250 OK") for claimed in claims]])

        return run

    at_once(storage, *map(server, "abc"))
    assert sorted(sent) == list(range(1, 201))
    assert storage.read(lambda: Delivery.select().where(Delivery.state == "delivered").count()) == 200


def test_servers_never_claim_a_part_of_a_digest(storage: BlockingStorage) -> None:
    storage.write(record_leads, [submission(email=f"r{n}@renter.test") for n in range(120)])
    storage.write(lambda: Delivery.update(digest=0).execute())
    storage.write(form_digests, NOW)
    wholes = {(1, 50), (51, 100), (101, 120)}
    claimed: list[tuple[int, int, int]] = []
    is_over = threading.Event()

    def server(name: str) -> Callable[[], None]:
        def run() -> None:
            while len(claimed) < 60:
                [claims] = storage.write(claim, [Claim(EMAIL, 1, NOW, name)])
                if claims:
                    ids = [c.delivery_id for c in claims]
                    claimed.append((len(ids), min(ids), max(ids)))
                storage.write(take_over_seen, NOW + LEASE)
            is_over.set()

        return run

    def look() -> None:
        lock_deliveries(Delivery.id << [7, 77, 107])
        time.sleep(0.005)

    def operator() -> None:  # looks at some in the middle, and changes nothing
        while not is_over.wait(0.001):
            storage.write(look)

    at_once(storage, server("a"), server("b"), operator)
    assert {(first, last) for _, first, last in claimed} <= wholes
    assert all(count == last - first + 1 for count, first, last in claimed)


def test_pause_and_trip_overwrite_nothing(storage: BlockingStorage) -> None:
    def operator() -> None:
        for _ in range(60):
            storage.write(actions.pause, ACTOR, EMAIL, NOW)
            assert storage.read(Destination.get_by_id, EMAIL).paused
            storage.write(lambda: Destination.update(paused=False).execute())
            assert not storage.read(Destination.get_by_id, EMAIL).paused

    def server() -> None:
        for number in range(100):
            storage.write(trip, EMAIL, "broken", NOW + timedelta(hours=number))

    at_once(storage, operator, server)
    found = storage.read(Destination.get_by_id, EMAIL)
    assert (found.paused, found.failures, found.reason) == (False, 100, "broken")


def test_actions_and_servers_that_meet_leave_no_deadlock(storage: BlockingStorage) -> None:
    fields = {"name": "The Oak", "agent_email": "agent@oak.test"}
    storage.write(add_building, ACTOR, fields, "oak", NOW)
    storage.write(record_leads, [submission(email=f"r{n % 5}@renter.test") for n in range(40)])

    def tolerant(action: Callable[..., Any], *args: Any) -> None:
        try:
            storage.write(action, ACTOR, *args, NOW)
        except ActionError:
            pass

    def operator(seed: int) -> Callable[[], None]:
        rng = random.Random(seed)

        def run() -> None:
            for _ in range(40):
                lead_id = rng.randint(1, 40)
                ids = rng.sample(range(1, 41), 5)
                choice = rng.randrange(8)
                if choice == 0:
                    tolerant(assign_lead, lead_id, rng.randint(1, 2))
                elif choice == 1:
                    tolerant(send_lead, lead_id, f"a{rng.randint(1, 3)}@office.test")
                elif choice == 2:
                    tolerant(correct_slot, lead_id, f"2026-12-0{rng.randint(1, 9)}T10:00")
                elif choice == 3:
                    tolerant(actions.skip_deliveries, ids)
                elif choice == 4:
                    tolerant(actions.retry_deliveries, ids)
                elif choice == 5:
                    tolerant(actions.retry_failed, None)
                elif choice == 6:
                    tolerant(flag_spam, rng.randint(1, 5), rng.random() < 0.5)
                else:
                    tolerant(erase_customer, rng.randint(1, 5))

        return run

    def server(name: str) -> Callable[[], None]:
        rng = random.Random(name)

        def run() -> None:
            for round in range(40):
                storage.write(record_leads, [submission(email=f"r{rng.randint(0, 9)}@renter.test")])
                [claims] = storage.write(claim, [Claim(EMAIL, 4, NOW, name)])
                storage.write(renew, name, claims, NOW)
                outcomes = [
                    Outcome(c, NOW, rng.choice([None, Failure("451", rng.choice(list(FailureKind)))]))
                    for c in claims
                ]
                storage.write(settle, [[outcome] for outcome in outcomes])
                storage.write(take_over_seen, NOW)

        return run

    at_once(storage, operator(1), operator(2), server("a"), server("b"))
    assert deadlocks(storage) == 0
    # Of an erased customer nothing is left, whatever came meanwhile.
    left = storage.read(
        lambda: (
            Lead.select()
            .join(Customer)
            .where(Customer.erased_at.is_null(False), Lead.requestor_email.is_null(False))
            .count()
        )
    )
    assert left == 0


def test_tokens_are_changed_by_two_consoles(storage: BlockingStorage) -> None:
    results: list[str] = []

    def console() -> None:
        for number in range(20):
            try:
                storage.write(add_building, ACTOR, {"name": "B"}, f"token-{number}", NOW)
                results.append("added")
            except ActionError:
                results.append("taken")
            storage.write(rotate_token, ACTOR, 1, timedelta(days=7), NOW)
            storage.write(update_building, ACTOR, 1, {"name": "M"}, NOW, [f"https://m{number}.test"])

    at_once(storage, console, console)
    assert Counter(results) == {"added": 20, "taken": 20}
    assert deadlocks(storage) == 0


def test_leads_are_stored_while_an_action_is_on_its_way(storage: BlockingStorage) -> None:
    storage.write(record_leads, [submission()])
    locked, stored = threading.Event(), threading.Event()

    def console() -> None:
        def action() -> None:
            flag_spam(ACTOR, 1, False, NOW)
            update_building(ACTOR, 1, {"name": "M"}, NOW)
            locked.set()
            assert stored.wait(10)

        storage.write(action)

    def server() -> None:
        assert locked.wait(10)
        storage.write(record_leads, [submission()])
        stored.set()

    at_once(storage, console, server)
    assert storage.read(lambda: Lead.select().count()) == 2


def test_C24c_rates_hold_over_all_servers(storage: BlockingStorage) -> None:
    storage.write(record_leads, [submission(email=f"r{n}@renter.test", phone=None) for n in range(20)])
    rates = {server: MailRates(0, 6) for server in "ab"}

    def sent(server: str, seconds: int) -> int:
        now = NOW + timedelta(seconds=seconds)
        [claims] = storage.write(claim, [Claim(EMAIL, 4, now, server, None, rates[server])])
        storage.write(settle, [[Outcome(claimed, now) for claimed in claims]])
        return len(claims)

    assert [sent("a", 0), sent("b", 2), sent("a", 4), sent("b", 6)] == [4, 2, 0, 0]
    assert len(storage.read(lambda: list(Delivery.select().where(Delivery.digest == 0)))) == 14
    rates["c"] = MailRates(0, 6)  # of a server that starts
    storage.write(record_leads, [submission(email=f"s{n}@renter.test", phone=None) for n in range(4)])
    assert [sent("c", 8), sent("a", 3_602)] == [0, 18]  # as one digest
