"""The schema's history on PostgreSQL, one step a file. It begins with 8, and its numbers are SQLite's."""
