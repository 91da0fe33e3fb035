"""Every way out: the dispatcher of the outbox and its adapters; and housekeeping."""
