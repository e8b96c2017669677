"""Owns README.txt of a repository: what somebody reads who finds it years from now."""

README_TEXT = b"""\
This directory is a backup repository of PostgreSQL databases, written by pgrecall.

WHAT IS HERE
  format/     says which version of the format this is; holds no secret
  keys/       the key of the repository, locked (age files); empty if the repository is not sealed
  clusters/   one directory for each database cluster:
              packs/    compressed data       backups/  one directory for each backup
              wal/      the write-ahead log, needed to recover to any moment

DO NOT change, rename or delete anything by hand. Nothing here is ever overwritten, so a plain copy of the whole
directory is itself a good copy.

HOW TO RESTORE
  1. Install pgrecall:                       pip install pgrecall
  2. Install the PostgreSQL major version that the backup came from.
  3. See what there is:                      pgrecall list --repo DIRECTORY
  4. Restore into a new, empty directory:    pgrecall restore --repo DIRECTORY -c CLUSTER --to NEW_DIRECTORY
  A sealed repository needs its secret with each of these: --identity-file FILE, where FILE holds the identity
  (AGE-SECRET-KEY-1...) or the passphrase that was printed when the repository was made. The database host itself has
  the key file of its cluster and needs neither. Without one of these three nobody can read it; there is no back door.

WITHOUT PGRECALL
  The format is documented byte by byte in docs/format.md of the pgrecall sources. The files in keys/ are ordinary age
  files: "age --decrypt" opens them. The data is zstd inside AES-256-GCM.
"""
