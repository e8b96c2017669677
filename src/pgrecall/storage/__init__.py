"""Where bytes go: keys and bytes, never backups."""
