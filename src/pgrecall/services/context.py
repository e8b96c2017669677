"""From settings to open things: the storage, one cluster's store in it, a session with its server."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pgrecall.config import ClusterSettings, Settings
from pgrecall.errors import KeyProblem, RepositoryNotFound, UsageError
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.formatfile import Act
from pgrecall.repository.hostkey import HostKey, read_host_key
from pgrecall.repository.repository import Repository
from pgrecall.storage.base import Storage
from pgrecall.storage.open import open_storage

if TYPE_CHECKING:
    from pgrecall.postgres.connection import Connection


def open_cluster(
    settings: Settings,
    cluster: ClusterSettings,
    *,
    identity: str | None = None,
    environ: Mapping[str, str] = os.environ,
    storage: Storage | None = None,
    act: Act = "read",
) -> ClusterStore:
    """The cluster's objects, under the best key there is, in this order: `identity` (text of an age identity, or the
    passphrase, as the user named it), the host's key file, the configured identity, none for unsealed repositories.

    `storage` may be given wrapped (counted). FormatUnknown when the repository needs what this program cannot, to `act`
    on it. RepositoryNotFound names the line that makes one; KeyProblem, KeyMismatch.
    """
    place = storage or repository_storage(settings, cluster)
    key = host_key(settings, cluster) if identity is None else None
    with _naming_init(settings, cluster):
        sealed = Repository.open(place, key, act).sealed
    if key is not None:
        return ClusterStore.from_host_key(place, key)
    if not sealed:
        return ClusterStore.without_key(place, cluster.name)
    secret = identity or settings.repository(cluster.repository).identity(environ)
    if secret is None:
        raise KeyProblem(
            f"{place.place} is sealed, and this host has no key of cluster '{cluster.name}': "
            f"{settings.key_file(cluster)} is not there",
            hint="name the age identity, or a file with the recovery passphrase: --identity-file FILE",
        )
    return ClusterStore.from_identity(place, cluster.name, secret)


def repository_storage(settings: Settings, cluster: ClusterSettings) -> Storage:
    return open_storage(settings.repository(cluster.repository).url)


def host_key(settings: Settings, cluster: ClusterSettings) -> HostKey | None:
    """This host's key of the cluster; None when there is no file where init puts it. KeyProblem when it is wrong."""
    path = settings.key_file(cluster)
    if cluster.key_file is None and not path.exists():
        return None
    key = read_host_key(path)
    if key.name != cluster.name:
        raise KeyProblem(
            f"{path} is the key of cluster '{key.name}', not of '{cluster.name}'",
            hint="clusters.NAME must be the name that the repository knows; else correct key_file",
        )
    return key


@contextmanager
def _naming_init(settings: Settings, cluster: ClusterSettings) -> Iterator[None]:
    """Where there is no repository, say the very line that makes it; an unmounted disk is likelier, and comes first."""
    try:
        yield
    except RepositoryNotFound as error:
        url = shlex.quote(settings.repository(cluster.repository).url)
        pgdata = f" --pgdata {shlex.quote(str(cluster.pgdata))}" if cluster.pgdata else ""
        hint = f"is it mounted, and in its place? If there never was one: pgrecall init --repo {url}{pgdata}"
        raise RepositoryNotFound(error.message, hint=hint, **error.facts) from error


def with_stored_clusters(settings: Settings) -> Settings:
    """Where the configuration names no cluster (recovery on a bare host): those that the repository holds."""
    if settings.clusters or not settings.repositories:
        return settings
    repository = settings.repository()
    names = Repository.open(open_storage(repository.url)).clusters()
    return replace(settings, clusters={name: ClusterSettings(name=name, repository=repository.name) for name in names})


def connect_cluster(cluster: ClusterSettings, environ: Mapping[str, str] = os.environ) -> Connection:
    """A session with the cluster's server, as the configuration, the environment or the data directory tells."""
    from pgrecall.postgres.connection import connect

    return connect(cluster.connection_string(environ), env=environ, pgdata=cluster.pgdata)


def data_directory(cluster: ClusterSettings) -> Path:
    """The data directory on this host; UsageError when the cluster has none configured."""
    if cluster.pgdata is None:
        raise UsageError(
            f"clusters.{cluster.name} has no pgdata: this host does not hold its files",
            hint=f'pgdata = "/var/lib/postgresql/…" below [clusters.{cluster.name}]',
        )
    return cluster.pgdata
