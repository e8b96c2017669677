"""The demo: a scratch PostgreSQL is protected, loses data, and is recovered; every table is compared."""
