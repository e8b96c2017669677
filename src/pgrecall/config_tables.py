"""Every option of the configuration, declared once: type, default, meaning. docs/configuration.md is made from this."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar

from pgrecall.config_schema import (
    DSN,
    DURATION,
    NAME_KIND,
    PATH,
    PLACE,
    TEXT,
    TEXTS,
    Option,
    Table,
    choice,
    integer,
)
from pgrecall.config_secret import read_secret

_LATER = "it comes with a later version; remove it, so that nobody relies on it"


def _later(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, _LATER)


def _secret(name: str) -> str:
    return f"secrets never stand in this file: use {name}_file, {name}_env or {name}_command"


@dataclass(frozen=True, kw_only=True)
class RepositorySettings(Table):
    """Where backups go. `[repository]` when there is one; `[repositories.NAME]` for several."""

    special: ClassVar[Mapping[str, str]] = {
        **_later("copies", "lock", "keep", "key_scope", "recipients", "copies_required"),
        **dict.fromkeys(("identity", "passphrase", "password", "key"), _secret("identity")),
        "path": 'the directory is url = "/srv/backup"',
        "sealed": "the repository knows this itself; it is chosen when init creates it: [--unsealed]",
    }

    name: str
    url: Annotated[str, Option(PLACE, "Where the repository lies. Relative directories are relative to this file.")]
    identity_file: Annotated[
        Path | None,
        Option(
            PATH,
            "File with the age identity, or the recovery passphrase, that opens the repository. Only recovery on "
            "another host needs it: a database host works with its cluster's key.",
        ),
    ] = None
    identity_env: Annotated[str | None, Option(TEXT, "Name of the environment variable that holds it.")] = None
    identity_command: Annotated[str | None, Option(TEXT, "Shell command that prints it.")] = None

    def identity(self, environ: Mapping[str, str]) -> str | None:
        """Text of the age identity or passphrase; None when the configuration names none."""
        return read_secret(
            self.identity_file, self.identity_env, self.identity_command, environ=environ, what=f"{self.name}: identity"
        )


@dataclass(frozen=True, kw_only=True)
class ClusterSettings(Table):
    """A PostgreSQL data directory: `[clusters.NAME]`. What stands in `[defaults]` holds for every cluster."""

    special: ClassVar[Mapping[str, str]] = {
        **_later("nodes", "backup_from", "keep", "rpo", "profile", "policy", "mode", "jitter", "drill", "copies"),
        **_later("wal_full", "wal_reserve", "tools", "hooks"),
        "jobs": "schedules come with a later version; how many workers a backup has is parallel = 2",
        "password": _secret("dsn"),
        "key": "secrets never stand in this file: use key_file",
    }

    name: str
    repository: Annotated[str, Option(NAME_KIND, "Name of the repository, when there are several.")] = ""
    pgdata: Annotated[Path | None, Option(PATH, "The data directory on this host.")] = None
    dsn: Annotated[
        str | None,
        Option(
            DSN,
            "How to connect: key=value pairs or a URL, without password. PostgreSQL's PG… variables and service files "
            "count as always; without any, the socket that postmaster.pid names.",
        ),
    ] = None
    dsn_file: Annotated[Path | None, Option(PATH, "File that holds the connection string.")] = None
    dsn_env: Annotated[str | None, Option(TEXT, "Name of the environment variable that holds it.")] = None
    dsn_command: Annotated[str | None, Option(TEXT, "Shell command that prints it.")] = None
    key_file: Annotated[
        Path | None,
        Option(
            PATH,
            "This host's key of the cluster, written by init: mode 0600, owned by the server's user. "
            "Not set: keys/NAME.key beside this file.",
        ),
    ] = None
    parallel: Annotated[
        int, Option(integer(1, 64), "How many workers read, compress and seal at once (also: --jobs).", "workers")
    ] = 2
    compression_level: Annotated[int, Option(integer(-7, 19), "zstd's level.")] = 3
    checkpoint: Annotated[str, Option(choice("fast", "spread"), "How the checkpoint that begins a backup is done.")] = (
        "fast"
    )
    archive_wait: Annotated[
        timedelta, Option(DURATION, "How long a backup waits for its last WAL segment to arrive in the repository.")
    ] = timedelta(minutes=5)
    fetch_patience: Annotated[
        timedelta,
        Option(DURATION, "How long `wal fetch` retries a failing repository before it stops recovery for all to see."),
    ] = timedelta(minutes=10)

    def connection_string(self, environ: Mapping[str, str]) -> str | None:
        """The DSN, wherever it stands; None = PostgreSQL's own variables and the data directory tell."""
        if self.dsn is not None:
            return self.dsn
        return read_secret(self.dsn_file, self.dsn_env, self.dsn_command, environ=environ, what=f"{self.name}: dsn")


@dataclass(frozen=True, kw_only=True)
class NotifySettings(Table):
    """Who hears how unattended runs ended: `[notify]`.

    Each target is a URL, which gets the event as JSON by POST, or a shell command, which gets it on stdin and as
    `PGRECALL_EVENT`, `PGRECALL_EVENT_VERB`, `…_CLUSTER`, `…_MESSAGE`, `…_CODE` in its environment. A target that fails
    is reported and changes nothing else.
    """

    special: ClassVar[Mapping[str, str]] = _later("routes", "digest", "quiet_hours")

    on_failure: Annotated[tuple[str, ...], Option(TEXTS, "Called for a run that failed, or was killed.")] = ()
    on_success: Annotated[tuple[str, ...], Option(TEXTS, "Called for a run that ended well.")] = ()
    heartbeat: Annotated[
        tuple[str, ...],
        Option(TEXTS, "Called after every run that ended well, so that silence raises an alarm elsewhere."),
    ] = ()
    timeout: Annotated[timedelta, Option(DURATION, "How long one target may take.")] = timedelta(seconds=10)


@dataclass(frozen=True, kw_only=True)
class GeneralSettings(Table):
    """Top level of the file, before the first `[table]`."""

    special: ClassVar[Mapping[str, str]] = _later(
        "include", "policies", "agent", "tools", "alerts", "web", "metrics", "schedules", "hooks"
    )

    state_dir: Annotated[
        Path | None,
        Option(
            PATH,
            "Where this host keeps what is not worth storing: owner tokens of timelines, marks of runs; one directory "
            "per cluster. Not set: /var/lib/pgrecall for root, else $XDG_STATE_HOME/pgrecall.",
        ),
    ] = None
