"""Schema 8: leases of deliveries, a check that all servers on a database have the same secret, and moves.

The first two are for servers that share a PostgreSQL. The tables are the same in either database.
"""

STATEMENTS = """
ALTER TABLE delivery ADD COLUMN claimed_by TEXT;
ALTER TABLE delivery ADD COLUMN claimed_until TEXT;
ALTER TABLE installation ADD COLUMN secret_check TEXT;
ALTER TABLE installation ADD COLUMN moved_to TEXT;
"""
