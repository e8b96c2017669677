"""The repository's side of init: make it or join it, and give this host the key of its cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgrecall.clock import Clock
from pgrecall.errors import KeyProblem, Refused, RepositoryNotFound, WrongCluster
from pgrecall.repository.cluster import ClusterStore, SystemIdentity
from pgrecall.repository.hostkey import HostKey
from pgrecall.repository.keyring import RootKey
from pgrecall.repository.repository import Repository
from pgrecall.services.init.local import LocalCluster
from pgrecall.storage.open import open_storage

IDENTITY = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]+")


@dataclass(frozen=True, repr=False)
class Joined:
    """What this host got. passphrase: of a repository made just now; it exists nowhere else."""

    key: HostKey
    created_repository: bool
    created_cluster: bool
    sealed: bool
    passphrase: str | None = None
    recorded_identity: bool = False
    """The cluster has this system identifier from now on."""


def join(
    url: str,
    name: str,
    local: LocalCluster,
    *,
    sealed: bool,
    secret: str | None,
    host_key: HostKey | None,
    new_identity: bool,
    clock: Clock,
) -> Joined:
    """Create or open the repository at url, create or open the cluster in it. Safe to repeat.

    `secret` (identity or passphrase) opens a sealed repository that exists; not needed where this host has its key. A
    new sealed repository is made for it, which must be an identity then. new_identity: the cluster may have another
    system identifier than the one that is known (after pg_upgrade); it is recorded.
    """
    storage = open_storage(url)
    try:
        repository = Repository.open(storage, host_key)
    except RepositoryNotFound:
        if host_key is not None:
            raise
        return _create(url, name, local, identity=secret if sealed else None, clock=clock)
    if not sealed and repository.sealed:
        raise Refused(f"{storage.place} is sealed; --unsealed cannot change that", hint="leave --unsealed out")
    if host_key is not None:
        return _existing(ClusterStore.from_host_key(storage, host_key), host_key, local, new_identity, clock)
    root = _unlock(repository, secret) if repository.sealed else None
    if name not in repository.clusters():
        key = repository.add_cluster(name, root, systems=[_system(local, clock)])
        return Joined(key, created_repository=False, created_cluster=True, sealed=repository.sealed)
    if root is None:
        raise KeyProblem(
            f"cluster '{name}' exists at {storage.place}, and its key file is not on this host",
            hint="copy the key file from the host that made it, or give this cluster another name: -c NAME",
        )
    key = repository.host_key(name, root)
    return _existing(ClusterStore.from_host_key(storage, key), key, local, new_identity, clock)


def _existing(store: ClusterStore, key: HostKey, local: LocalCluster, new_identity: bool, clock: Clock) -> Joined:
    """Join a cluster that is there; WrongCluster when its name stands for another than the one whose files lie here."""
    known = [each.system_identifier for each in store.identity().systems]
    differs = bool(known) and known[-1] != local.system_identifier
    if differs and not new_identity:
        raise WrongCluster(
            f"{local.pgdata} is {local.system_identifier}, '{store.name}' is {known[-1]} at {store.storage.place}",
            hint=f"after pg_upgrade: pgrecall init -c {store.name} --new-identity; "
            "else give this cluster another name: -c NAME",
            found=str(local.system_identifier),
            expected=str(known[-1]),
        )
    if differs:
        store.record_system(_system(local, clock))
    sealed = store.keys.sealed
    return Joined(key, created_repository=False, created_cluster=False, sealed=sealed, recorded_identity=differs)


def _create(url: str, name: str, local: LocalCluster, *, identity: str | None, clock: Clock) -> Joined:
    found = IDENTITY.search(identity or "")
    if identity is not None and found is None:
        raise KeyProblem(
            "a new repository is made for an age identity, not for a passphrase", hint="age-keygen makes one"
        )
    text = found[0] if found else None
    made = Repository.create(open_storage(url), sealed=identity is not None, identity=text, clock=clock)
    key = made.repository.add_cluster(name, made.root, systems=[_system(local, clock)])
    return Joined(
        key,
        created_repository=True,
        created_cluster=True,
        sealed=made.repository.sealed,
        passphrase=made.passphrase,
    )


def _unlock(repository: Repository, secret: str | None) -> RootKey:
    if secret is None:
        raise KeyProblem(
            f"{repository.storage.place} is sealed: adding this host takes its identity or recovery passphrase",
            hint="--identity-file FILE (what the first init wrote or printed)",
        )
    return repository.unlock(secret)


def _system(local: LocalCluster, clock: Clock) -> SystemIdentity:
    return SystemIdentity(local.system_identifier, local.version_num, clock.now().replace(microsecond=0))


def repository_exists(url: str) -> bool:
    try:
        Repository.open(open_storage(url))
    except RepositoryNotFound:
        return False
    return True
