"""The runbook of `pgrecall init`: plan from what is here, then make what is missing; repeating it harms nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pgrecall.clock import Clock
from pgrecall.config import Settings, default_state_dir, load_settings
from pgrecall.config_secret import read_secret_file
from pgrecall.durable import create_whole, make_directories
from pgrecall.errors import ConfigInvalid, PgrecallError, PostgresError, Refused, UsageError
from pgrecall.postgres.requirements import program_problem
from pgrecall.postgres.users import OsUser, is_root, refuse_unreachable_runtime
from pgrecall.repository.hostkey import HostKey, read_host_key, write_host_key
from pgrecall.repository.keyring import new_identity
from pgrecall.services.impersonate import as_user
from pgrecall.services.init.config_text import append, cluster_section, new_file, write_configuration
from pgrecall.services.init.local import (
    LocalCluster,
    cluster_name,
    find_data_directory,
    local_cluster,
    program_words,
    server_environment,
)
from pgrecall.services.init.server import ServerReview, archive_command, review_server
from pgrecall.services.init.stores import Joined, join, repository_exists

PROOF_SECONDS = 60
DEGRADED = 3  # exit status of a check that has only warnings


@dataclass(frozen=True, kw_only=True)
class InitRequest:
    """What was typed. config: where the configuration is, or is to be."""

    config: Path
    repository: str | None = None
    pgdata: Path | None = None
    dsn: str | None = None
    cluster: str | None = None
    unsealed: bool = False
    apply: bool = False
    secret: str | None = None
    new_identity: bool = False
    """The cluster has another system identifier than before: pg_upgrade makes one."""


@dataclass(frozen=True, kw_only=True)
class InitPlan:
    """Everything that is decided before anything is written."""

    request: InitRequest
    local: LocalCluster
    cluster: str
    url: str
    config_text: str | None
    """What the file is to hold; None: it stays as it is."""
    key_file: Path
    identity_file: Path
    state_dir: Path
    program: tuple[str, ...]
    archive_command: str
    host_key: HostKey | None
    new_config: bool
    new_repository: bool

    @property
    def makes_age_identity(self) -> bool:
        """An age identity is to be made: nothing that is here already opens the repository to come."""
        sealed = self.new_repository and not self.request.unsealed
        return sealed and self.request.secret is None and not self.identity_file.exists()


@dataclass(frozen=True, kw_only=True)
class InitResult:
    """What was done, also when it ended early: passphrase and identity_file are told once, whatever else failed."""

    cluster: str
    pgdata: Path
    repository: str
    sealed: bool
    config: Path
    key_file: Path
    created: tuple[str, ...]
    """Of: repository, cluster, identity, key, configuration."""
    archive_command: str
    review: ServerReview | None
    problem: PgrecallError | None
    """What failed after the repository was there: the server's user cannot archive, the server could not be set."""
    identity_file: Path | None = None
    passphrase: str | None = None


def plan_init(request: InitRequest, *, environ: Mapping[str, str], clock: Clock) -> InitPlan:
    """Reads only. An error here means that nothing was touched."""
    settings = load_settings(request.config, environ=environ) if request.config.exists() else None
    known = {name: each.pgdata for name, each in settings.clusters.items()} if settings else {}
    pgdata = request.pgdata or known.get(request.cluster or "") or find_data_directory(environ, known)
    local = local_cluster(pgdata.resolve(), clock)
    name = cluster_name(request.cluster, local.pgdata, known)
    _refuse_other_directory(known.get(name), local.pgdata, name, request.config)
    url = _repository_url(request, settings)
    program = program_words()
    _refuse_unreachable_program(program, local.owner)
    key_file = request.config.parent / "keys" / f"{name}.key"
    if settings and name in settings.clusters:
        key_file = settings.key_file(settings.clusters[name])
    state_dir = settings.state_dir if settings and settings.state_dir else _state_dir(settings, local.owner, environ)
    plan = InitPlan(
        request=request,
        local=local,
        cluster=name,
        url=url,
        config_text=None,
        key_file=key_file,
        identity_file=request.config.parent / "identity",
        state_dir=state_dir,
        program=tuple(program),
        archive_command=archive_command(program, request.config, name),
        host_key=read_host_key(key_file) if key_file.exists() else None,
        new_config=settings is None,
        new_repository=not repository_exists(url),
    )
    return plan if name in known else replace(plan, config_text=_config_text(plan))


def execute_init(plan: InitPlan, *, environ: Mapping[str, str], clock: Clock) -> InitResult:
    """Make what is missing; may be interrupted anywhere: secrets are on disk before anything depends on them."""
    told_once = plan.identity_file if plan.makes_age_identity else None
    _make_directories(plan)
    if told_once is not None:
        _write_identity(plan)
    joined = _join(plan, _secret(plan), clock)
    _write_key(plan, joined)
    if plan.config_text is not None:
        write_configuration(plan.request.config, plan.config_text)
    review, problem = None, None
    try:
        _prove_server_user_can_archive(plan, environ)
        review = _review_server(plan, environ, clock)
    except PgrecallError as error:
        problem = error
    return InitResult(
        cluster=plan.cluster,
        pgdata=plan.local.pgdata,
        repository=plan.url,
        sealed=joined.sealed,
        config=plan.request.config,
        key_file=plan.key_file,
        created=_created(plan, joined),
        archive_command=plan.archive_command,
        review=review,
        problem=problem,
        identity_file=told_once,
        passphrase=joined.passphrase,
    )


def review_only(
    plan: InitPlan, *, environ: Mapping[str, str], clock: Clock
) -> tuple[ServerReview | None, PgrecallError | None]:
    """For --dry-run and --print: what the server lacks, or why it cannot be asked; nothing is written."""
    try:
        return _review_server(replace(plan, request=replace(plan.request, apply=False)), environ, clock), None
    except PostgresError as error:
        return None, error


# Planning ------------------------------------------------------------------------------------------------------------
def _repository_url(request: InitRequest, settings: Settings | None) -> str:
    """--repo, else the configured one; a configuration holds one repository that init cares for."""
    given = request.repository
    if given is not None and "://" not in given:
        given = str(Path.cwd() / given)
    if settings is None or not settings.repositories:
        if given is None:
            raise UsageError("where shall backups go?", hint="--repo DIR, best on another machine's disk (NFS)")
        return given
    configured = settings.repository()
    if given not in (None, configured.url, configured.name):
        raise Refused(
            f"{request.config} uses the repository at {configured.url}, not {given}",
            hint="leave --repo out to join it, or keep two configurations apart: --config FILE",
        )
    return configured.url


def _refuse_other_directory(configured: Path | None, pgdata: Path, name: str, config: Path) -> None:
    if configured is not None and configured.resolve() != pgdata:
        raise Refused(
            f"cluster '{name}' in {config} is {configured}, not {pgdata}",
            hint="give this one another name: -c NAME; if it is the same cluster, moved, correct its pgdata there",
        )


def _refuse_unreachable_program(program: Sequence[str], owner: OsUser) -> None:
    """Before anything is written; the proof by execution follows."""
    groups = os.getgrouplist(owner.name, owner.gid) if not owner.name.isdigit() else [owner.gid]
    problem = program_problem(Path(program[0]), uid=owner.uid, gids=groups)
    if problem is not None:
        raise Refused(
            f"{owner.name}, as whom PostgreSQL archives, cannot run {program[0]}: {problem}",
            hint="install pgrecall where every user can run it, in a virtual environment under /opt for example",
        )
    if is_root():
        refuse_unreachable_runtime(owner)


def _state_dir(settings: Settings | None, owner: OsUser, environ: Mapping[str, str]) -> Path:
    """Written into a new configuration, so that whoever starts us agrees on it; an existing file keeps its default."""
    if settings is None:
        given = environ.get("PGRECALL_STATE_DIR")
        return Path(given) if given else default_state_dir(environ)
    return as_user(owner, lambda: default_state_dir(environ))


def _config_text(plan: InitPlan) -> str:
    section = cluster_section(plan.cluster, pgdata=plan.local.pgdata, key_file=plan.key_file, dsn=plan.request.dsn)
    if not plan.new_config:
        return append(plan.request.config.read_text("utf-8"), section, plan.request.config)
    identity = None if plan.request.unsealed else plan.identity_file
    return new_file(url=plan.url, state_dir=plan.state_dir, identity_file=identity) + section


def _secret(plan: InitPlan) -> str | None:
    """What was named, else the identity that this or an earlier init left beside the configuration."""
    if plan.request.secret is None and plan.identity_file.exists():
        return read_secret_file(plan.identity_file, what="identity file")
    return plan.request.secret


# Executing -----------------------------------------------------------------------------------------------------------
def _make_directories(plan: InitPlan) -> None:
    make_directories(plan.request.config.parent)
    make_directories(plan.key_file.parent, mode=0o755)
    make_directories(plan.state_dir, mode=0o755)
    _own(plan.state_dir / plan.cluster, plan.local.owner, mode=0o700)
    repository = _local_directory(plan.url)
    if repository is not None and is_root() and not repository.exists():
        _own(repository, plan.local.owner, mode=0o750)


def _own(directory: Path, owner: OsUser, *, mode: int) -> None:
    make_directories(directory, mode=mode)
    if is_root():
        os.chown(directory, owner.uid, owner.gid)


def _local_directory(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def _join(plan: InitPlan, secret: str | None, clock: Clock) -> Joined:
    """As the server's user, who is to write there every minute."""
    return as_user(
        plan.local.owner,
        lambda: join(
            plan.url,
            plan.cluster,
            plan.local,
            sealed=not plan.request.unsealed,
            secret=secret,
            host_key=plan.host_key,
            new_identity=plan.request.new_identity,
            clock=clock,
        ),
    )


def _write_identity(plan: InitPlan) -> None:
    """Before the repository that it opens exists: killed in between, the next attempt finds and uses it."""
    create_whole(plan.identity_file, f"# Opens the pgrecall repository at {plan.url}.\n{new_identity()}\n".encode())


def _write_key(plan: InitPlan, joined: Joined) -> None:
    if plan.host_key is None:
        write_host_key(plan.key_file, joined.key)
        if is_root():
            os.chown(plan.key_file, plan.local.owner.uid, plan.local.owner.gid)


def _prove_server_user_can_archive(plan: InitPlan, environ: Mapping[str, str]) -> None:
    """Run the very program of archive_command as the server's user and in its environment, with this configuration."""
    argv = [*plan.program, "--config", str(plan.request.config), "check", "-c", plan.cluster]
    argv += ["--only", "config,key", "--json"]
    user: dict[str, Any] = {}
    if is_root():
        groups = os.getgrouplist(plan.local.owner.name, plan.local.owner.gid)
        user = {"user": plan.local.owner.uid, "group": plan.local.owner.gid, "extra_groups": groups}
    clean = server_environment(plan.local.pgdata) or {k: v for k, v in environ.items() if not k.startswith("PGRECALL_")}
    try:
        done = subprocess.run(
            argv, env=clean, cwd="/", capture_output=True, text=True, check=False, timeout=PROOF_SECONDS, **user
        )
    except (OSError, subprocess.TimeoutExpired) as error:  # the passphrase is told all the same
        raise ConfigInvalid(
            f"{plan.local.owner.name}, as whom PostgreSQL archives, cannot run {' '.join(argv[:-1])}: {error}",
            hint="cure it, then run init again: it goes on where it stopped",
        ) from error
    if done.returncode not in (0, DEGRADED):
        raise ConfigInvalid(
            f"{plan.local.owner.name}, as whom PostgreSQL archives, cannot run {' '.join(argv[:-1])}: {_said(done)}",
            hint="cure it, then run init again: it goes on where it stopped",
        )


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """The reason that the program gave, in its JSON or on stderr."""
    try:
        answer = json.loads(done.stdout)
        return str(answer["message"] if "message" in answer else answer["data"]["findings"][0]["what"])
    except (ValueError, KeyError, IndexError):
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def _review_server(plan: InitPlan, environ: Mapping[str, str], clock: Clock) -> ServerReview:
    """As the server's user: peer authentication lets that one in."""
    local, request = plan.local, plan.request
    return as_user(
        local.owner,
        lambda: review_server(
            local.pgdata, request.dsn, plan.archive_command, apply=request.apply, clock=clock, environ=environ
        ),
    )


def _created(plan: InitPlan, joined: Joined) -> tuple[str, ...]:
    made = {
        "repository": joined.created_repository,
        "cluster": joined.created_cluster,
        "identity": joined.recorded_identity,
        "key": plan.host_key is None,
        "configuration": plan.config_text is not None,
    }
    return tuple(name for name, was_made in made.items() if was_made)
