"""The schema's history: one step a file, append-only, each applied in one transaction."""
