"""Owns schema 3: a name of its own for each database, so that its backups are told from another's."""

STATEMENTS = """
CREATE TABLE installation (
    id TEXT PRIMARY KEY
) WITHOUT ROWID;
INSERT INTO installation (id) VALUES (lower(hex(randomblob(4))));
"""
