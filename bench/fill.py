"""Fill a database with rows as the server leaves them, faster than leads could be sent."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw

AT_A_TIME = 20_000
MESSAGE = "Is it still free? I could come by on any evening of next week, and have a cat."

Progress = Callable[[str], None]


def fill(data_dir: Path, leads: int, waiting: int, progress: Progress) -> None:
    """Insert so many leads into a data folder's database, each with a customer, a deal and a mail.

    The mails of the last `waiting` leads are pending: half are due, half wait for a retry.
    progress: called with a line of text.
    """
    now = datetime.now(UTC)
    with closing(apsw.Connection(str(data_dir / "leads.db"))) as connection:
        connection.pragma("synchronous", "off")
        connection.pragma("cache_size", -200_000)
        for first in range(1, leads + 1, AT_A_TIME):
            numbers = range(first, min(first + AT_A_TIME, leads + 1))
            with connection:
                _insert(connection, numbers, leads, waiting, now)
            progress(f"{numbers[-1]:,} of {leads:,} leads ...")
        connection.pragma("wal_checkpoint(truncate)")


def _insert(
    connection: apsw.Connection, numbers: Sequence[int], leads: int, waiting: int, now: datetime
) -> None:
    def text(instant: datetime) -> str:
        return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")

    def at(number: int) -> datetime:
        return now - timedelta(seconds=leads - number)

    def into(table: str, columns: str, rows: Iterator[tuple[object, ...]]) -> None:
        places = ",".join("?" * len(columns.split()))
        connection.executemany(f"INSERT INTO {table} ({','.join(columns.split())}) VALUES ({places})", rows)

    emails = [f"{random.getrandbits(48):x}@renter.example" for _ in numbers]
    phones = [f"+1{random.randrange(2_000_000_000, 9_999_999_999)}" for _ in numbers]
    people = list(zip(numbers, emails, phones, strict=True))
    into(
        "customer",
        "id name email email_key phone phone_key created_at",
        ((n, f"Renter {n}", email, email, phone, phone, text(at(n))) for n, email, phone in people),
    )
    into(
        "lead",
        "id request_id created_at building_id customer_id sent_token requestor_name requestor_email "
        "requestor_phone message slot sent_slot unit_preference property_type utm_data sent_utm_data "
        "listing_source request_host lead_source sms_consent sms_consent_at sms_consent_ip sms_consent_host",
        (
            (n, f"{n:032x}", text(at(n)), 1, n, "bench", f"Renter {n}", email)
            + (phone, MESSAGE, text(now), "2026-12-01T10:00", "4B", "listing", '{"utm_source":"bench"}')
            + ("utm_source=bench", "zillow", "127.0.0.1", "website", 1, text(at(n)), "127.0.0.1", "127.0.0.1")
            for n, email, phone in people
        ),
    )
    into("deal", "id lead_id stage_id created_at", ((n, n, 1, text(at(n))) for n in numbers))
    into(
        "delivery",
        "id lead_id kind state attempts failures due_at settled_at",
        (
            (n, n, "email", "delivered", 1, 0, None, text(at(n)))
            if n <= leads - waiting
            else (n, n, "email", "pending", 0, 0, text(at(n)), None)
            if n % 2
            else (
                n,
                n,
                "email",
                "pending",
                9,
                9,
                text(now + timedelta(seconds=random.randrange(28_800))),
                None,
            )
            for n in numbers
        ),
    )
    into(
        "delivery_attempt",
        "delivery_id number started_at ended_at outcome",
        ((n, 1, text(at(n)), text(at(n)), "delivered") for n in numbers if n <= leads - waiting),
    )
