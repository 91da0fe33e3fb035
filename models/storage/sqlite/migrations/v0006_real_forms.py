"""Schema 6: several websites of a building, where a lead's form stood, keys with their sources.

Customers are matched by another key of their phone. Those that the older key merged are marked.
"""

import apsw

from models.email_address import stored_comparison_key
from models.phone import phone_key

STATEMENTS = """
CREATE TABLE building_website (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    building_id INTEGER NOT NULL REFERENCES building (id),
    url TEXT NOT NULL,
    UNIQUE (building_id, url)
);
INSERT INTO building_website (building_id, url)
    SELECT id, website_url FROM building WHERE website_url IS NOT NULL;
ALTER TABLE building DROP COLUMN website_url;

ALTER TABLE lead ADD COLUMN sent_email TEXT;
ALTER TABLE lead ADD COLUMN website TEXT;
ALTER TABLE lead ADD COLUMN unregistered_origin TEXT;
ALTER TABLE lead ADD COLUMN sms_consent_origin TEXT;
UPDATE lead SET website = request_host;
CREATE INDEX lead_unregistered_origin ON lead (created_at) WHERE unregistered_origin IS NOT NULL;

ALTER TABLE customer ADD COLUMN merged INTEGER NOT NULL DEFAULT 0;
CREATE INDEX customer_merged ON customer (id) WHERE merged;

ALTER TABLE idempotency_key RENAME TO idempotency_key_5;
DROP INDEX idempotency_key_created_at;
CREATE TABLE idempotency_key (
    digest BLOB NOT NULL,
    body BLOB NOT NULL,
    source BLOB NOT NULL,
    lead_id INTEGER NOT NULL REFERENCES lead (id),
    created_at TEXT NOT NULL,
    PRIMARY KEY (digest, body)
) WITHOUT ROWID;
INSERT INTO idempotency_key (digest, body, source, lead_id, created_at)
    SELECT digest, body, x'', lead_id, created_at FROM idempotency_key_5;
DROP TABLE idempotency_key_5;
CREATE INDEX idempotency_key_created_at ON idempotency_key (created_at);

DROP TABLE recent_text;
CREATE TABLE recent_text (
    building_id INTEGER NOT NULL REFERENCES building (id),
    digest BLOB NOT NULL,
    lead_id INTEGER NOT NULL REFERENCES lead (id),
    customer_id INTEGER NOT NULL REFERENCES customer (id),
    source TEXT,
    created_at TEXT NOT NULL,
    PRIMARY KEY (building_id, digest, lead_id)
) WITHOUT ROWID;
CREATE INDEX recent_text_created_at ON recent_text (created_at);

CREATE TABLE daily_count (
    day TEXT NOT NULL,
    name TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (day, name)
) WITHOUT ROWID;
"""


def convert(connection: apsw.Connection) -> None:
    """Give customers the key that their phone has now, and mark those that hold leads of several renters."""
    connection.executemany(
        "UPDATE customer SET phone = iif(?1 IS NULL, NULL, phone), phone_key = ?1 WHERE id = ?2",
        _changed_phone_keys(connection),
    )
    mixed = _mixed_customers(connection)
    merged = [(customer_id,) for customer_id in mixed if _is_merged(connection, customer_id)]
    connection.executemany("UPDATE customer SET merged = 1 WHERE id = ?", merged)


# Columns are read as bytes: SQLite checks neither the type of a value nor its encoding.


def _changed_phone_keys(connection: apsw.Connection) -> list[tuple[str | None, int]]:
    """Return the new key and the id of each customer whose phone has another key now.

    A phone that has none any more is cleared, so that a later one can be filled in. Its lead still has it.
    """
    rows = connection.execute(
        "SELECT id, CAST(phone AS BLOB), CAST(phone_key AS BLOB) FROM customer WHERE phone IS NOT NULL"
    )
    changed = []
    for customer_id, phone, old_key in rows:
        key = phone_key(_text(phone))
        if key is None or key.encode() != old_key:
            changed.append((key, customer_id))
    return changed


def _mixed_customers(connection: apsw.Connection) -> list[int]:
    """Return the customers that hold leads of several spellings of an e-mail address, or of several."""
    rows = connection.execute(
        "SELECT customer_id FROM lead WHERE requestor_email IS NOT NULL"
        " GROUP BY customer_id HAVING min(requestor_email) <> max(requestor_email)"
    )
    return [customer_id for (customer_id,) in rows]


def _is_merged(connection: apsw.Connection, customer_id: int) -> bool:
    """Return True if one of the customer's leads is joined to it neither by e-mail nor by phone."""
    leads = connection.execute(
        "SELECT CAST(requestor_email AS BLOB), CAST(requestor_phone AS BLOB),"
        " CAST(email_key AS BLOB), CAST(phone_key AS BLOB)"
        " FROM lead JOIN customer ON customer.id = customer_id"
        " WHERE customer_id = ? AND requestor_email IS NOT NULL",
        (customer_id,),
    )
    return any(
        stored_comparison_key(_text(email)).encode() != of_email
        and (phone is None or not of_phone or (phone_key(_text(phone)) or "").encode() != of_phone)
        for email, phone, of_email, of_phone in leads
    )


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
