"""The settings: found, read and checked from file, environment and command line; one typed value for everybody."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from pgrecall.config_schema import SCHEME, Reader, Table, dotted, options_of
from pgrecall.config_source import Key, Source, read_file, refuse, with_environment
from pgrecall.config_tables import ClusterSettings, GeneralSettings, NotifySettings, RepositorySettings
from pgrecall.errors import ConfigInvalid, UsageError

__all__ = [
    "ClusterSettings",
    "ConfigPlace",
    "NotifySettings",
    "RepositorySettings",
    "Settings",
    "config_place",
    "find_config",
    "load_settings",
]

TABLES = ("repository", "repositories", "clusters", "defaults", "notify")


@dataclass(frozen=True, kw_only=True)
class Settings:
    source: Source
    state_dir: Path | None
    repositories: dict[str, RepositorySettings]
    clusters: dict[str, ClusterSettings]
    notify: NotifySettings = field(default_factory=NotifySettings)
    repository_given: str | None = None
    """Name of the repository chosen by --repo or PGRECALL_REPOSITORY."""

    @property
    def path(self) -> Path | None:
        """The configuration file; None when none was found."""
        return self.source.path

    def repository(self, name: str = "") -> RepositorySettings:
        """The named repository, else the one given by --repo, else the only one."""
        name = name or self.repository_given or ("default" if "default" in self.repositories else "")
        if not name and len(self.repositories) == 1:
            name = next(iter(self.repositories))
        if name in self.repositories:
            return self.repositories[name]
        if not self.repositories:
            raise ConfigInvalid(
                "no repository is configured", hint="pgrecall init --repo DIR --pgdata DIR; or name one: --repo DIR"
            )
        raise UsageError(f"which repository? There are {', '.join(self.repositories)}", hint="choose with --repo NAME")

    def select(self, patterns: Sequence[str] = ()) -> list[ClusterSettings]:
        """Clusters whose name matches one of the globs, all without any; UsageError when one matches nothing."""
        chosen: dict[str, ClusterSettings] = {}
        for pattern in patterns or ("*",):
            matching = {name: each for name, each in self.clusters.items() if fnmatchcase(name, pattern)}
            if not matching:
                raise self._no_cluster(pattern)
            chosen |= matching
        return list(chosen.values())

    def cluster(self, patterns: Sequence[str] = ()) -> ClusterSettings:
        """The one cluster to act on."""
        chosen = self.select(patterns)
        if len(chosen) > 1:
            names = ", ".join(each.name for each in chosen)
            raise UsageError(
                f"which cluster? There are {names}", hint=f"choose with -c, for instance: -c {chosen[0].name}"
            )
        return chosen[0]

    def state_directory(self, cluster: str) -> Path:
        """What this host remembers about the cluster; owned by the server's user, whom we are by now."""
        return (self.state_dir or default_state_dir(os.environ)) / cluster

    def key_file(self, cluster: ClusterSettings) -> Path:
        return cluster.key_file or self.source.base / "keys" / f"{cluster.name}.key"

    def origins(self) -> list[tuple[str, Any, str]]:
        """(setting, value, FILE:LINE or the variable or "default") of everything, for people."""
        tables: list[tuple[Key, Table, Key | None]] = [((), GeneralSettings(state_dir=self.state_dir), None)]
        for name, repository in self.repositories.items():
            short = name == "default" and "repository" in self.source.values
            tables.append((("repository",) if short else ("repositories", name), repository, None))
        tables += [(("clusters", name), each, ("defaults",)) for name, each in self.clusters.items()]
        tables.append((("notify",), self.notify, None))
        return [
            (dotted((*key, name)), getattr(table, name), self._origin((*key, name), common and (*common, name)))
            for key, table, common in tables
            for name in options_of(type(table))
        ]

    def _origin(self, key: Key, common: Key | None) -> str:
        own = self.source.origin(key)
        return self.source.origin(common) if own == "default" and common else own

    def _no_cluster(self, pattern: str) -> ConfigInvalid | UsageError:
        if self.clusters:
            return UsageError(f"no cluster is called '{pattern}'", hint=f"there are: {', '.join(self.clusters)}")
        place = f"in {self.path}" if self.path else "and no configuration was found"
        return ConfigInvalid(f"no cluster is configured {place}", hint="pgrecall init --repo DIR --pgdata DIR")


def search_path(environ: Mapping[str, str]) -> list[Path]:
    """Where a configuration is looked for, best first, when --config and PGRECALL_CONFIG name none."""
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "/")) / ".config")
    return [Path.cwd() / "pgrecall.toml", Path(home) / "pgrecall/pgrecall.toml", Path("/etc/pgrecall/pgrecall.toml")]


def find_config(given: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file to read; one that was named must exist."""
    named = given or (Path(environ["PGRECALL_CONFIG"]) if environ.get("PGRECALL_CONFIG") else None)
    if named is not None:
        return Path.cwd() / named
    return next((path for path in search_path(environ) if path.is_file()), None)


class ConfigPlace(NamedTuple):
    """Where init finds or writes the configuration; found_by_itself: later calls need no --config."""

    path: Path
    found_by_itself: bool


def config_place(given: Path | None, environ: Mapping[str, str]) -> ConfigPlace:
    """The configuration that a call would read, else where a new one belongs."""
    found = find_config(given, environ)
    usual = search_path(environ)
    if found is None:
        found = usual[2] if os.geteuid() == 0 else usual[1]
    return ConfigPlace(found, found in usual or environ.get("PGRECALL_CONFIG") == str(found))


def load_settings(path: Path | None = None, *, environ: Mapping[str, str], repository: str | None = None) -> Settings:
    """Read and check everything; ConfigInvalid names every problem with FILE:LINE and cure. Arguments: as typed."""
    found = find_config(path, environ)
    source = read_file(found) if found else Source()
    names = {table: frozenset(_tables(source.values.get(table))) for table in ("clusters", "repositories")}
    reader = Reader(with_environment(source, environ, names=names, single=options_of(GeneralSettings)))
    settings = _read(reader)
    refuse(reader.problems)
    chosen = repository or environ.get("PGRECALL_REPOSITORY")
    return _with_repository(settings, chosen) if chosen else settings


def default_state_dir(environ: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/pgrecall")
    home = Path(environ.get("HOME", "/"))
    return Path(environ.get("XDG_STATE_HOME") or home / ".local/state") / "pgrecall"


def _read(reader: Reader) -> Settings:
    values = reader.source.values
    notify = NotifySettings(**reader.values(NotifySettings, ("notify",), values.get("notify", {})))
    rest = {name: value for name, value in values.items() if name not in TABLES}
    general = reader.values(GeneralSettings, (), rest, also=TABLES)
    repositories = _read_repositories(reader, values)
    clusters = _read_clusters(reader, values)
    _check_references(reader, clusters, repositories)
    _check_targets(reader, notify)
    return Settings(
        source=reader.source,
        state_dir=general.get("state_dir"),
        repositories=repositories,
        clusters=clusters,
        notify=notify,
    )


def _read_repositories(reader: Reader, values: Mapping[str, Any]) -> dict[str, RepositorySettings]:
    tables: list[tuple[str, Key, Any]] = [
        (name, ("repositories", name), raw) for name, raw in _tables(values.get("repositories")).items()
    ]
    if "repository" in values:
        tables.append(("default", ("repository",), values["repository"]))
    found = {}
    for name, key, raw in tables:
        reader.name(key, name)
        given = reader.values(RepositorySettings, key, raw)
        if isinstance(raw, dict) and "url" not in raw:
            reader.problem(key, f"{dotted(key)} has no url", 'say where it lies: url = "/srv/backup"')
        found[name] = RepositorySettings(name=name, **{"url": "", **given})
    return found


def _read_clusters(reader: Reader, values: Mapping[str, Any]) -> dict[str, ClusterSettings]:
    common = reader.values(ClusterSettings, ("defaults",), values.get("defaults", {}))
    found = {}
    if not isinstance(values.get("clusters", {}), dict):
        reader.problem(("clusters",), "clusters must be tables", "[clusters.main] with settings below it")
    for name, raw in _tables(values.get("clusters")).items():
        reader.name(("clusters", name), name)
        found[name] = ClusterSettings(name=name, **common | reader.values(ClusterSettings, ("clusters", name), raw))
    return found


def _tables(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_references(
    reader: Reader, clusters: Mapping[str, ClusterSettings], repositories: Mapping[str, RepositorySettings]
) -> None:
    for name, cluster in clusters.items():
        if cluster.repository and cluster.repository not in repositories:
            known = ", ".join(repositories) or "none"
            key = ("clusters", name, "repository")
            reader.problem(
                key, f"clusters.{name}: no repository is called '{cluster.repository}'", f"there are: {known}"
            )


def _check_targets(reader: Reader, notify: NotifySettings) -> None:
    for option_name in ("on_failure", "on_success", "heartbeat"):
        for target in getattr(notify, option_name):
            scheme = SCHEME.match(target)
            if scheme and scheme[1] not in ("http", "https"):
                what = f"notify.{option_name}: {scheme[1]}: is not understood by this version"
                reader.problem(
                    ("notify", option_name),
                    what,
                    "an https:// URL, or a command such as: mail -s pgrecall dba@example.org",
                )


def _with_repository(settings: Settings, chosen: str) -> Settings:
    """--repo: a configured name, or the place of a configured one, or another place."""
    place = chosen if "://" in chosen else str(Path.cwd() / chosen)
    for name, repository in settings.repositories.items():
        if chosen == name or repository.url.removeprefix("file://").rstrip("/") == place.removeprefix("file://").rstrip(
            "/"
        ):
            return replace(settings, repository_given=name)
    here = RepositorySettings(name="--repo", url=place)
    clusters = {name: replace(cluster, repository="") for name, cluster in settings.clusters.items()}
    return replace(settings, repositories={"--repo": here}, clusters=clusters, repository_given="--repo")
