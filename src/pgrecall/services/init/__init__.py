"""`pgrecall init`: from a data directory and a place for backups to a protected cluster."""
