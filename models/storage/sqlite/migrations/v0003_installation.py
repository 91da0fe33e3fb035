"""Schema 3: an id of the installation, so that its backups are told from those of another."""

STATEMENTS = """
CREATE TABLE installation (
    id TEXT PRIMARY KEY
) WITHOUT ROWID;
INSERT INTO installation (id) VALUES (lower(hex(randomblob(4))));
"""
