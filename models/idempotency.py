"""Owns Idempotency-Keys: a lead sent again under its key is answered as it was the first time (C20)."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from peewee import BlobField, ForeignKeyField

from models.lead import Lead
from models.storage.rows import Row, UtcDateTimeField

KEPT_FOR = timedelta(hours=24)


class IdempotencyKey(Row):
    """A key under which a lead was sent. Only digests: a client may make its keys of a renter's address."""

    digest = BlobField(primary_key=True)  # of the key, and of whose it is
    body = BlobField()  # a digest
    lead = ForeignKeyField(Lead)
    lead_id: int
    created_at = UtcDateTimeField()


@dataclass(frozen=True, slots=True)
class ScopedKey:
    """A key together with whose it is, and the body that came with it, as digests."""

    digest: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """What makes a lead safe to send again: the client's key, where it came from, a digest of its body."""

    key: str
    source: str
    body: bytes

    def scoped_to(self, building_id: int | None) -> ScopedKey:
        """The key as the building's, or if there is none as its source's."""
        owner = f"source {self.source}" if building_id is None else f"building {building_id}"
        return ScopedKey(hashlib.sha256(f"{owner}\n{self.key}".encode()).digest(), self.body)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What was made of the first lead under a key, and a digest of the body it had."""

    lead_id: int
    body: bytes


def find_key_records(digests: Collection[bytes], now: datetime) -> dict[bytes, KeyRecord]:
    """What is kept of these keys."""
    if not digests:
        return {}
    rows = IdempotencyKey.select().where(
        IdempotencyKey.digest.in_(digests), IdempotencyKey.created_at > now - KEPT_FOR
    )
    return {bytes(row.digest): KeyRecord(row.lead_id, bytes(row.body)) for row in rows}


def save_key_records(tries: Mapping[bytes, KeyRecord], now: datetime) -> None:
    """Keep these, in the transaction of their leads, and forget those whose time is up."""
    if not tries:
        return
    IdempotencyKey.delete().where(IdempotencyKey.created_at <= now - KEPT_FOR).execute()
    IdempotencyKey.insert_many(
        [
            {"digest": digest, "body": one.body, "lead": one.lead_id, "created_at": now}
            for digest, one in tries.items()
        ]
    ).execute()
