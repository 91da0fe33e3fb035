"""Schema 4: leads that look like spam, and the version of the text that a renter consented to."""

STATEMENTS = """
ALTER TABLE building ADD COLUMN spam_defence TEXT NOT NULL DEFAULT 'off';
ALTER TABLE lead ADD COLUMN sms_consent_version TEXT;
ALTER TABLE lead ADD COLUMN suspected TEXT;
CREATE INDEX lead_suspected ON lead (id) WHERE suspected IS NOT NULL;

CREATE INDEX delivery_held ON delivery (kind) WHERE state = 'held';

CREATE TABLE recent_text (
    building_id INTEGER NOT NULL REFERENCES building (id),
    digest BLOB NOT NULL,
    lead_id INTEGER NOT NULL REFERENCES lead (id),
    created_at TEXT NOT NULL,
    PRIMARY KEY (building_id, digest, lead_id)
) WITHOUT ROWID;
CREATE INDEX recent_text_created_at ON recent_text (created_at);
"""
