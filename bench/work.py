"""Owns the whole measurement: which programs there are, both scenarios, one result."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.cluster import database_bytes, fill, fill_files, new_server
from bench.limits import machine_limits
from bench.machine import describe, version
from bench.report import as_json, limits_json
from bench.scenario import Rounds
from bench.tools import PgBackRest, PgBasebackup, Pgrecall, Tool
from pgrecall.postgres.binaries import Binaries, find_binaries

Say = Callable[[str], None]
MAJOR = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """home: an empty directory; peers: where bench/peers.sh has put the other tools."""

    home: Path
    size: int
    files: int
    rounds: int
    jobs: int
    peers: Path
    scenarios: tuple[str, ...]


def measure(options: Options, *, now: datetime, say: Say) -> dict[str, Any]:
    """A result for `report.markdown` and for JSON."""
    binaries = _binaries(options.peers)
    tools = _tools(options, binaries, say)
    scenarios = []
    if "life" in options.scenarios:
        scenarios.append(_life(options, binaries, tools, say))
    if "files" in options.scenarios:
        scenarios.append(_files(options, binaries, [tool for tool in tools if "plain" not in tool.name], say))
    return {
        "date": now.date().isoformat(),
        "machine": describe(options.home),
        "versions": {"PostgreSQL": binaries.version, **{t.name: t.version for t in tools if "base" not in t.name}},
        "jobs": options.jobs,
        "rounds": options.rounds,
        "scenarios": scenarios,
    }


def _life(options: Options, binaries: Binaries, tools: list[Tool], say: Say) -> dict[str, Any]:
    say("filling a cluster")
    with new_server(binaries, options.home / "data") as server:
        fill(server, options.size)
        size = database_bytes(server)
        say(f"{size / 1e9:.2f} GB; measuring the machine")
        limits = machine_limits(server.pgdata, options.home)
        rounds = Rounds(server, tools, options.home / "tools", say)
        measured = rounds.life(options.rounds)
    return {
        "title": "A database of pgbench, text and JSON",
        "about": f"{size / 1e9:.2f} GB before the first change; medians of {options.rounds} rounds, "
        f"{options.jobs} jobs.",
        "limits": limits_json(limits),
        "measured": as_json(measured),
    }


def _files(options: Options, binaries: Binaries, tools: list[Tool], say: Say) -> dict[str, Any]:
    say(f"making {options.files} tables")
    with new_server(binaries, options.home / "files") as server:
        fill_files(server, options.files)
        size = database_bytes(server)
        measured = Rounds(server, tools, options.home / "tools-files", say).many_files(options.rounds)
    return {
        "title": f"{options.files:,} small relation files",
        "about": f"Tables of 8 to 64 KiB, {size / 1e9:.2f} GB together; medians of {options.rounds} rounds, "
        f"{options.jobs} jobs.",
        "measured": as_json(measured),
    }


def _binaries(peers: Path) -> Binaries:
    """The server that all tools back up: the peers' own where it is there (it can zstd), else any of this version."""
    bindir = peers / "bin"
    return find_binaries(bindir if (bindir / "postgres").exists() else MAJOR)


def _tools(options: Options, binaries: Binaries, say: Say) -> list[Tool]:
    tools: list[Tool] = [Pgrecall(options.jobs)]
    program = options.peers / "bin" / "pgbackrest"
    if program.exists():
        tools.append(PgBackRest(program, version(program, "version").removeprefix("pgBackRest "), options.jobs))
    else:
        say(f"no pgBackRest in {options.peers}: bench/peers.sh brings it (Debian, root)")
    if "--with-zstd" in binaries.config("configure"):
        tools.append(PgBasebackup(plain=False, jobs=options.jobs))
    else:
        say(f"{binaries} cannot compress with zstd: pg_basebackup is measured without compression only")
    tools.append(PgBasebackup(plain=True, jobs=options.jobs))
    return tools
