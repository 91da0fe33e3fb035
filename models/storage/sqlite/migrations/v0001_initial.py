"""Schema 1: the first released one."""

STATEMENTS = """
CREATE TABLE building (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    address_line_one TEXT,
    unified_address_id TEXT,
    website_url TEXT,
    agent_email TEXT,
    time_zone TEXT NOT NULL,
    created_at TEXT NOT NULL,
    removed_at TEXT
);
CREATE INDEX building_unified_address_id ON building (unified_address_id);
CREATE INDEX building_address_line_one ON building (address_line_one);

CREATE TABLE building_token (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    building_id INTEGER NOT NULL REFERENCES building (id),
    token TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL,
    expires_at TEXT,
    revoked_at TEXT
);
CREATE INDEX building_token_building ON building_token (building_id);

CREATE TABLE customer (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT,
    email TEXT,
    email_key TEXT UNIQUE,
    phone TEXT,
    phone_key TEXT,
    spam INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    erased_at TEXT
);
CREATE INDEX customer_phone_key ON customer (phone_key) WHERE phone_key IS NOT NULL;

CREATE TABLE lead (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL,
    created_at TEXT NOT NULL,
    building_id INTEGER REFERENCES building (id),
    customer_id INTEGER NOT NULL REFERENCES customer (id),
    sent_token TEXT,
    sent_unified_address_id TEXT,
    sent_address_line_one TEXT,
    requestor_name TEXT,
    requestor_email TEXT,
    requestor_phone TEXT,
    message TEXT,
    slot TEXT,
    sent_slot TEXT,
    unit_preference TEXT,
    property_type TEXT NOT NULL,
    utm_data TEXT,
    sent_utm_data TEXT,
    listing_source TEXT,
    listing_source_original_id TEXT,
    request_host TEXT,
    lead_source TEXT NOT NULL,
    sms_consent INTEGER NOT NULL,
    sms_consent_at TEXT,
    sms_consent_ip TEXT,
    sms_consent_user_agent TEXT,
    sms_consent_host TEXT
);
CREATE INDEX lead_customer ON lead (customer_id);

CREATE TABLE pipeline_stage (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    position INTEGER NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE
);
INSERT INTO pipeline_stage (position, name)
    VALUES (1, 'new'), (2, 'contacted'), (3, 'touring'), (4, 'applied'), (5, 'leased'), (6, 'lost');

CREATE TABLE deal (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lead_id INTEGER NOT NULL UNIQUE REFERENCES lead (id),
    stage_id INTEGER NOT NULL REFERENCES pipeline_stage (id),
    created_at TEXT NOT NULL
);

CREATE TABLE destination (
    kind TEXT PRIMARY KEY,
    configured INTEGER NOT NULL DEFAULT 0,
    paused INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    hold_until TEXT,
    reason TEXT
);
INSERT INTO destination (kind) VALUES ('email'), ('june_homes');

CREATE TABLE delivery (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lead_id INTEGER NOT NULL REFERENCES lead (id),
    kind TEXT NOT NULL REFERENCES destination (kind),
    state TEXT NOT NULL,
    reason TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    due_at TEXT,
    settled_at TEXT,
    UNIQUE (lead_id, kind)
);
CREATE INDEX delivery_due ON delivery (kind, due_at) WHERE state = 'pending';
CREATE INDEX delivery_sending ON delivery (kind) WHERE state = 'sending';
CREATE INDEX delivery_failed ON delivery (kind) WHERE state = 'failed';

CREATE TABLE delivery_attempt (
    delivery_id INTEGER NOT NULL REFERENCES delivery (id),
    number INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    outcome TEXT,
    PRIMARY KEY (delivery_id, number)
) WITHOUT ROWID;

CREATE TABLE storage_check (
    id INTEGER PRIMARY KEY,
    checked_at TEXT NOT NULL
);
"""
