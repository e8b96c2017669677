"""One call of the program: what was typed, where output goes, and the few services that every verb needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgrecall.cli.output import Output, Text
from pgrecall.clock import Clock

if TYPE_CHECKING:
    from pgrecall.cli.progress import Progress
    from pgrecall.config import ClusterSettings, Settings
    from pgrecall.services.unattended import UnattendedRun

DEGRADED = 3


@dataclass
class Globals:
    """The global options as typed, wherever they stood on the line."""

    clusters: tuple[str, ...] = ()
    repository: str | None = None
    config: Path | None = None
    identity_file: Path | None = None
    json: bool = False
    quiet: bool = False
    verbose: int = 0
    dry_run: bool = False
    yes: bool = False
    """Part of the grammar from the first version on, so that scripts can say it before a verb asks."""


@dataclass
class Invocation:
    out: Output
    clock: Clock
    environ: Mapping[str, str]
    globals: Globals = field(default_factory=Globals)
    verb: str = ""
    exit_status: int = 0
    _settings: Settings | None = None
    _identity: str | None = None

    def apply(self, name: str, value: Any) -> None:
        """A global option stands on the line."""
        assert hasattr(self.globals, name), name
        setattr(self.globals, name, self.globals.clusters + tuple(value) if name == "clusters" else value)
        if name in ("json", "quiet", "verbose"):
            setattr(self.out, name, value)

    def start_logging(self) -> None:
        """What parts below log goes to stderr, as -q and -v say."""
        from pgrecall.cli.output import escape
        from pgrecall.observe.logging import configure

        configure(self.out.stderr, quiet=self.out.quiet, verbose=self.out.verbose, escape=escape)

    def settings(self) -> Settings:
        """The configuration, read and checked at first use."""
        if self._settings is None:
            from pgrecall.config import load_settings

            self._settings = load_settings(
                self.globals.config, environ=self.environ, repository=self.globals.repository
            )
        return self._settings

    def cluster(self) -> ClusterSettings:
        """The one cluster a writing verb acts on."""
        return self._with_clusters().cluster(self._patterns())

    def clusters(self) -> list[ClusterSettings]:
        """The clusters a reading verb shows: those selected, else all."""
        return self._with_clusters().select(self._patterns())

    def _with_clusters(self) -> Settings:
        """Without configured clusters (recovery on a bare host with --repo), those of the repository."""
        if not self.settings().clusters and self.settings().repositories:
            from pgrecall.services.context import with_stored_clusters

            self._settings = with_stored_clusters(self.settings())
        return self.settings()

    def _patterns(self) -> Sequence[str]:
        return self.globals.clusters or self.environ.get("PGRECALL_CLUSTER", "").split()

    def become_owner(self, cluster: ClusterSettings) -> None:
        """Started as root, become the owner of the data directory before touching anything."""
        from pgrecall.postgres.users import become, owner_of

        self.settings()
        self.identity()  # these files may be readable for root alone
        if cluster.pgdata is not None and cluster.pgdata.exists():
            become(owner_of(cluster.pgdata))

    def identity(self) -> str | None:
        """Text of --identity-file; None when it was not given (the configuration's identity then counts)."""
        if self.globals.identity_file is not None and self._identity is None:
            from pgrecall.config_secret import read_secret_file

            self._identity = read_secret_file(self.globals.identity_file, what="--identity-file")
        return self._identity

    def progress(self) -> AbstractContextManager[Progress]:
        """A Reporter that shows how far the work is, on stderr."""
        from pgrecall.cli.progress import progress

        return progress(self.out, self.clock)

    def unattended(self, verb: str, cluster: ClusterSettings) -> UnattendedRun:
        """A context around work that nobody watches: [notify] hears how it ended."""
        from pgrecall.services.unattended import UnattendedRun

        return UnattendedRun(self.settings(), cluster, verb=verb, clock=self.clock, warn=self.out.warn)

    def emit(self, name: str, version: int, *, data: object, text: Text) -> None:
        """The result, once, on stdout."""
        self.out.result(name, version, at=self.clock.now(), data=data, text=text)

    def status(self, warnings: Sequence[str] = ()) -> int:
        return DEGRADED if warnings else 0
