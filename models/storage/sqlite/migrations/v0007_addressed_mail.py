"""Schema 7: mails with a recipient and a content of their own, answers of destinations, digests, sources,
corrected tours.

A lead may have several deliveries of a kind, so the table is made anew without its uniqueness.
"""

STATEMENTS = """
DROP INDEX delivery_due;
DROP INDEX delivery_sending;
DROP INDEX delivery_failed;
DROP INDEX delivery_quarantined;
ALTER TABLE delivery RENAME TO delivery_6;
ALTER TABLE delivery_attempt RENAME TO delivery_attempt_6;

CREATE TABLE delivery (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lead_id INTEGER NOT NULL REFERENCES lead (id),
    kind TEXT NOT NULL REFERENCES destination (kind),
    content TEXT NOT NULL DEFAULT 'lead',
    told_slot TEXT,
    recipient TEXT,
    building_id INTEGER REFERENCES building (id),
    state TEXT NOT NULL,
    reason TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    digest INTEGER,
    due_at TEXT,
    sent_at TEXT,
    settled_at TEXT
);
INSERT INTO delivery (id, lead_id, kind, state, reason, attempts, failures, due_at, settled_at)
    SELECT id, lead_id, kind, state, reason, attempts, failures, due_at, settled_at FROM delivery_6;
DELETE FROM sqlite_sequence WHERE name = 'delivery';
UPDATE sqlite_sequence SET name = 'delivery' WHERE name = 'delivery_6';
CREATE INDEX delivery_lead ON delivery (lead_id);
CREATE INDEX delivery_due ON delivery (kind, due_at) WHERE state = 'pending';
CREATE INDEX delivery_digest ON delivery (digest, id) WHERE state = 'pending' AND digest IS NOT NULL;
CREATE INDEX delivery_refused ON delivery (kind) WHERE state = 'pending' AND refused;
CREATE INDEX delivery_sending ON delivery (kind) WHERE state = 'sending';
CREATE INDEX delivery_failed ON delivery (kind) WHERE state = 'failed';
CREATE INDEX delivery_quarantined ON delivery (kind) WHERE state = 'quarantined';

CREATE TABLE delivery_attempt (
    delivery_id INTEGER NOT NULL REFERENCES delivery (id),
    number INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    outcome TEXT,
    recipient TEXT,
    answer TEXT,
    PRIMARY KEY (delivery_id, number)
) WITHOUT ROWID;
INSERT INTO delivery_attempt (delivery_id, number, started_at, ended_at, outcome)
    SELECT delivery_id, number, started_at, ended_at, outcome FROM delivery_attempt_6;
DROP TABLE delivery_attempt_6;
DROP TABLE delivery_6;

ALTER TABLE destination ADD COLUMN refuses INTEGER NOT NULL DEFAULT 0;
ALTER TABLE destination ADD COLUMN succeeded_at TEXT;
ALTER TABLE destination ADD COLUMN missing TEXT;

ALTER TABLE lead ADD COLUMN source TEXT;
ALTER TABLE lead ADD COLUMN corrected_slot TEXT;
ALTER TABLE lead ADD COLUMN tour_sequence INTEGER NOT NULL DEFAULT 0;

CREATE INDEX audit_entry_subject ON audit_entry (subject_kind, subject_id);
"""
