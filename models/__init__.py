"""What is true: the rows, the rules about them, and the one writer that changes them.

On a database that servers share, each server has a writer, and commands write as well. A transaction locks
what it changes in this order, so that no two wait for each other; of each kind in the order of names or ids.

1. Names of rows that may not exist yet: idempotency keys, e-mail keys, phone keys, texts, tokens.
2. Rows: buildings, customers, leads, deliveries, destinations, daily counts.

The operations of a batch run in that order too. A claim waits for no lock: it passes over rows that are
locked.
"""
