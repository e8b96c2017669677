"""Restore: plan, show, execute."""
