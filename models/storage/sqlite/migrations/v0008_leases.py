"""Schema 8: leases of deliveries, and a check that all servers on a database have the same secret.

Both are for servers that share a PostgreSQL. The tables are the same in either database.
"""

STATEMENTS = """
ALTER TABLE delivery ADD COLUMN claimed_by TEXT;
ALTER TABLE delivery ADD COLUMN claimed_until TEXT;
ALTER TABLE installation ADD COLUMN secret_check TEXT;
"""
