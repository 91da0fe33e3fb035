"""Schema 5: the audit log, and "quarantined" as the state of deliveries of leads that look like spam."""

STATEMENTS = """
CREATE TABLE audit_entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    actor_kind TEXT NOT NULL,
    actor_name TEXT NOT NULL,
    action TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject_id TEXT,
    fields TEXT NOT NULL
);

UPDATE delivery SET state = 'quarantined' WHERE state = 'held';
DROP INDEX delivery_held;
CREATE INDEX delivery_quarantined ON delivery (kind) WHERE state = 'quarantined';
"""
