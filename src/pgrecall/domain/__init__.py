"""Frozen values and pure rules of backup and recovery."""
