"""Schema 2: keys that make a retry safe, and why a destination is paused."""

STATEMENTS = """
CREATE TABLE idempotency_key (
    digest BLOB PRIMARY KEY,
    body BLOB NOT NULL,
    lead_id INTEGER NOT NULL REFERENCES lead (id),
    created_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX idempotency_key_created_at ON idempotency_key (created_at);

ALTER TABLE destination ADD COLUMN pause_reason TEXT;
UPDATE destination SET pause_reason = 'by the operator' WHERE paused;
"""
