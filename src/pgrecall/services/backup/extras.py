"""Owns what is stored after all other files: pg_control, read last, and configuration from elsewhere."""

import os
import stat
from pathlib import Path

from pgrecall.errors import FileUnreadable
from pgrecall.postgres.control import CONTROL_FILE, read_control_bytes
from pgrecall.postgres.listing import FileItem, FileKind, Listing
from pgrecall.repository.directory_writer import DirectoryFacts, DirectoryWriter
from pgrecall.repository.paths import OUTSIDE
from pgrecall.services.backup.worker import Shared, Worker

CONTROL_DIRECTORY = CONTROL_FILE.rpartition("/")[0].encode()
OUTSIDE_MODE = 0o700


def store_extras(worker: Worker, shared: Shared, listing: Listing, shared_catalogs: DirectoryWriter) -> None:
    """Add pg_control to its directory, the outside files to one of their own."""
    if listing.outside:
        root = listing.directories[0]
        owner, group = shared.principals.user(root.uid), shared.principals.group(root.gid)
        writer = shared.manifest.directory(DirectoryFacts(OUTSIDE, OUTSIDE_MODE, owner, group))
        for outside in listing.outside:
            worker.store_bytes(writer, outside.file, _read(outside.source))
        shared.manifest.finish_directory(writer)
    content = read_control_bytes(shared.facts.pgdata, clock=shared.clock)
    worker.store_bytes(shared_catalogs, _control_item(shared), content)


def _control_item(shared: Shared) -> FileItem:
    status = (shared.facts.pgdata / CONTROL_FILE).stat()
    return FileItem(
        name=CONTROL_FILE.rpartition("/")[2].encode(),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        kind=FileKind.OTHER,
    )


def _read(source: bytes) -> bytes:
    try:
        return Path(os.fsdecode(source)).read_bytes()
    except OSError as error:
        raise FileUnreadable(
            f"cannot read the configuration file {os.fsdecode(source)}: {error.strerror}",
            hint="The server's user must be able to read it.",
            path=os.fsdecode(source),
        ) from error
