"""Schema 6: several websites of a building, where a lead's form stood, keys with their sources."""

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
