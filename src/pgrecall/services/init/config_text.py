"""The configuration that init writes: a commented file, or one more section at the end of an existing one."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

from pgrecall.durable import replace_whole
from pgrecall.errors import Refused

HEAD = """\
# The configuration of pgrecall, written by `pgrecall init`. Every setting: docs/configuration.md;
# `pgrecall check --config` shows what counts and where it comes from. No secret ever stands here.

# What this host keeps of its own: owner tokens of timelines, marks of runs.
state_dir = {state_dir}

[repository]
url = {url}
{identity}
# What stands here holds for every cluster.
[defaults]
# parallel = 2                # workers of a backup
# compression_level = 3       # zstd
# archive_wait = "5m"         # how long a backup waits for its WAL

# Who hears of it when a run fails, or is killed: a URL gets JSON by POST, a command gets it on stdin.
[notify]
# on_failure = ["https://alerts.example/hook", "mail -s 'pgrecall: backup failed' dba@example.org"]
# heartbeat = "https://hc.example/ping/…"    # called after each run that ended well: silence raises the alarm elsewhere
"""

IDENTITY = """\
# Opens everything, so it is only for adding clusters and for recovery elsewhere. Keep a copy away from this host.
# identity_file = {identity_file}
"""

CLUSTER = """
[clusters.{name}]
pgdata = {pgdata}
key_file = {key_file}
"""


def new_file(*, url: str, state_dir: Path, identity_file: Path | None) -> str:
    identity = IDENTITY.format(identity_file=quoted(identity_file)) if identity_file else ""
    return HEAD.format(state_dir=quoted(state_dir), url=quoted(url), identity=identity)


def cluster_section(name: str, *, pgdata: Path, key_file: Path, dsn: str | None) -> str:
    text = CLUSTER.format(name=name, pgdata=quoted(pgdata), key_file=quoted(key_file))
    return text + (f"dsn = {quoted(dsn)}\n" if dsn else "")


def append(existing: str, section: str, path: Path) -> str:
    """The file with the section at its end; Refused when that would not be TOML any more."""
    text = existing.rstrip("\n") + "\n" + section
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused(
            f"{path} cannot be extended by a section: {error}", hint=f"add by hand: {section.strip()}"
        ) from None
    return text


def write_configuration(path: Path, text: str) -> None:
    """Replace the file; an existing one keeps its mode and owner."""
    before = path.stat() if path.exists() else None
    owner = (before.st_uid, before.st_gid) if before is not None and os.geteuid() == 0 else None
    replace_whole(path, text.encode(), mode=before.st_mode & 0o7777 if before else 0o644, owner=owner)


def quoted(value: str | Path) -> str:
    """A TOML basic string."""
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
