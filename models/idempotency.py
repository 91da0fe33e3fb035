"""Idempotency keys: a lead that is sent again with its key gets the first answer (C20)."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from peewee import BlobField, CompositeKey, ForeignKeyField

from models.lead import Lead
from models.storage.rows import Row, UtcDateTimeField

KEPT_FOR = timedelta(hours=24)


class IdempotencyKey(Row):
    """The key of a stored lead, as a digest: a client may derive its keys from a renter's address."""

    digest = BlobField()  # of the key and its owner
    body = BlobField()  # the digest of the lead's body
    source = BlobField()  # the digest of the source that sent it
    lead = ForeignKeyField(Lead)
    lead_id: int
    created_at = UtcDateTimeField()

    class Meta:
        primary_key = CompositeKey("digest", "body")


@dataclass(frozen=True, slots=True)
class ScopedKey:
    """A key with its owner, and the body that it came with, as digests."""

    digest: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A lead's Idempotency-Key with its source, and the digest of its body."""

    key: str
    source: str
    body: bytes

    def scoped_to(self, building_id: int | None) -> ScopedKey:
        """Return the key as owned by the building, or by the source if there is no building."""
        owner = f"source {self.source}" if building_id is None else f"building {building_id}"
        return ScopedKey(hashlib.sha256(f"{owner}\n{self.key}".encode()).digest(), self.body)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The first lead with a key, and the digest of its body."""

    lead_id: int
    body: bytes


def find_key_records(digests: Collection[bytes], now: datetime) -> dict[bytes, KeyRecord]:
    """Return the records of these keys that have not expired."""
    if not digests:
        return {}
    rows = IdempotencyKey.select().where(
        IdempotencyKey.digest.in_(digests), IdempotencyKey.created_at > now - KEPT_FOR
    )
    return {bytes(row.digest): KeyRecord(row.lead_id, bytes(row.body)) for row in rows}


def save_key_records(records: Mapping[bytes, KeyRecord], now: datetime) -> None:
    """Save these records, in the transaction of their leads, and delete expired ones."""
    if not records:
        return
    IdempotencyKey.delete().where(IdempotencyKey.created_at <= now - KEPT_FOR).execute()
    IdempotencyKey.insert_many(
        [
            {"digest": digest, "body": first.body, "source": b"-", "lead": first.lead_id, "created_at": now}
            for digest, first in records.items()
        ]
    ).execute()
