"""Idempotency keys: a lead that is sent again with its key gets the first answer (C20)."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from peewee import BlobField, CompositeKey, ForeignKeyField

from models.lead import Lead
from models.secret import SecretKeys
from models.storage.rows import Row, UtcDateTimeField, is_exclusive, lock_names

KEPT_FOR = timedelta(hours=24)

# The purposes of the digests.
KEY, BODY, SOURCE = "idempotency key", "idempotency body", "idempotency source"
# The `source` of rows that schema 5 stored: without a secret, and then with one.
WITHOUT_SECRET, UNKNOWN = b"", b"?"


class IdempotencyKey(Row):
    """The key of a stored lead, as digests: a client may derive its keys from a renter's address."""

    digest = BlobField()  # of the key and its owner
    body = BlobField()
    source = BlobField()
    lead = ForeignKeyField(Lead)
    lead_id: int
    created_at = UtcDateTimeField()

    class Meta:
        primary_key = CompositeKey("digest", "body")


@dataclass(frozen=True, slots=True)
class KeyDigests:
    """The digests of a key with its owner, of the lead's body and of its source, by one key of the secret."""

    key: bytes
    body: bytes
    source: bytes


@dataclass(frozen=True, slots=True)
class ScopedKey:
    """An Idempotency-Key as owned by a building or a source. digests: by each key of the secret, the newest
    first. is_strict: another body from the same source is an error; otherwise it is another lead.
    """

    digests: Sequence[KeyDigests]
    is_strict: bool


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A lead's Idempotency-Key with its source, and the SHA-256 of its body.

    secret: what digests are made with. is_strict: as of `ScopedKey`.
    """

    key: str
    source: str
    body: bytes
    secret: SecretKeys
    is_strict: bool = True

    def scoped_to(self, building_id: int | None) -> ScopedKey:
        """Return the key as owned by the building, or by the source if there is no building."""
        owner = f"source {self.source}" if building_id is None else f"building {building_id}"
        texts = (
            (KEY, hashlib.sha256(f"{owner}\n{self.key}".encode()).digest()),
            (BODY, self.body),
            (SOURCE, self.source.encode()),
        )
        digests = zip(*(self.secret.digests(purpose, text) for purpose, text in texts), strict=True)
        return ScopedKey([KeyDigests(*each) for each in digests], self.is_strict)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A lead that was stored with a key, and the digests of its body and source."""

    lead_id: int
    body: bytes
    source: bytes


KeyRecords = dict[bytes, list[KeyRecord]]  # by the digest of the key


def find_key_records(keys: Iterable[ScopedKey], now: datetime) -> KeyRecords:
    """Return the records of these keys that have not expired.

    Until the transaction ends no other one finds them, so that each key has one lead.
    """
    wanted = {digests.key for key in keys for digests in key.digests}
    lock_names("idempotency key", wanted)
    found: KeyRecords = {}
    rows = IdempotencyKey.select().where(
        IdempotencyKey.digest.in_(wanted), IdempotencyKey.created_at > now - KEPT_FOR
    )
    for row in rows:
        record = KeyRecord(row.lead_id, bytes(row.body), bytes(row.source))
        found.setdefault(bytes(row.digest), []).append(record)
    return found


def earlier_lead(key: ScopedKey, records: Mapping[bytes, Sequence[KeyRecord]]) -> int | None:
    """Return the lead that this key and body stored before; None if there is none."""
    matches = (r.lead_id for d in key.digests for r in records.get(d.key, ()) if r.body == d.body)
    return next(matches, None)


def is_reused(key: ScopedKey, records: Mapping[bytes, Sequence[KeyRecord]]) -> bool:
    """Return True if the key is strict, and the same source has sent it before."""
    return key.is_strict and any(r.source == d.source for d in key.digests for r in records.get(d.key, ()))


def save_key_records(stored: Mapping[int, ScopedKey], now: datetime) -> None:
    """Save the key of each lead, in the transaction of the leads, and delete expired ones."""
    if not stored:
        return
    if is_exclusive("expired keys"):
        IdempotencyKey.delete().where(IdempotencyKey.created_at <= now - KEPT_FOR).execute()
    newest = {lead_id: key.digests[0] for lead_id, key in stored.items()}
    IdempotencyKey.insert_many(
        [
            {"digest": d.key, "body": d.body, "source": d.source, "lead": lead_id, "created_at": now}
            for lead_id, d in newest.items()
        ]
    ).execute()


def key_old_records(secret: SecretKeys) -> None:
    """Key the digests that schema 5 stored without a secret."""
    for row in list(IdempotencyKey.select().where(IdempotencyKey.source == WITHOUT_SECRET)):
        digest, body = secret.digest(KEY, bytes(row.digest)), secret.digest(BODY, bytes(row.body))
        IdempotencyKey.update(digest=digest, body=body, source=UNKNOWN).where(
            IdempotencyKey.digest == row.digest, IdempotencyKey.body == row.body
        ).execute()
