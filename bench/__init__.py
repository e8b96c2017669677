"""Measures pgrecall against pg_basebackup and pgBackRest: the same server, the same data, paired runs."""
