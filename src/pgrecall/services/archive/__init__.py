"""The WAL archive: what PostgreSQL pushes into it and fetches from it, and what can be recovered with what is there."""
