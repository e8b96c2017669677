"""What a PostgreSQL server and its files are."""
