"""Backup: plan what to compare with, read, store what is new, commit."""
