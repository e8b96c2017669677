"""Backup and recovery for PostgreSQL that proves itself by restoring."""

__version__ = "0.1.0"
