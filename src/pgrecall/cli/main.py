"""The entry point: finds the verb's module, runs it, turns errors into exit statuses."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TextIO

import click

from pgrecall import __version__
from pgrecall.cli.invocation import Invocation
from pgrecall.cli.options import global_options
from pgrecall.cli.output import Output, drop_stdout
from pgrecall.clock import Clock, SystemClock
from pgrecall.errors import PgrecallError, UsageError

INTERRUPTED, TERMINATED, PIPE_BROKEN = 130, 143, 141


class VerbRow(NamedTuple):
    """A verb: the module that holds `command`, and what the overview says of it."""

    module: str
    group: str
    summary: str


VERBS: Mapping[str, VerbRow] = {
    "init": VerbRow("pgrecall.cli.init", "set up", "Protect a cluster: repository, key, configuration, the SQL PostgreSQL needs."),
    "check": VerbRow("pgrecall.cli.check", "set up", "Prove that settings, rights, keys and archiving work now."),
    "demo": VerbRow("pgrecall.cli.demo", "set up", "Lose a table of a scratch PostgreSQL and get it back."),
    "backup": VerbRow("pgrecall.cli.backup", "save", "Back up a cluster: incremental when it can be, else full."),
    "restore": VerbRow("pgrecall.cli.restore", "bring back", "Recover a cluster to any moment, into a directory."),
    "list": VerbRow("pgrecall.cli.list", "look, prove", "Backups, their state, size and what they reach."),
    "show": VerbRow("pgrecall.cli.show", "look, prove", "Everything known about one backup."),
    "status": VerbRow("pgrecall.cli.status", "look, prove", "What can be recovered now, and what would be lost."),
    "verify": VerbRow("pgrecall.cli.verify", "look, prove", "Read and check every stored byte."),
    "wal": VerbRow("pgrecall.cli.wal", "plumbing", "push, fetch: what PostgreSQL calls to archive and recover WAL."),
}
ALIASES = {"doctor": "check"}


class VerbTable(click.Group):
    """Verbs by name; a module is imported when its verb is used, never for the overview."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = VERBS.get(ALIASES.get(cmd_name, cmd_name))
        if row is None:
            return None
        command: click.Command = importlib.import_module(row.module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group in dict.fromkeys(row.group for row in VERBS.values()):
            with formatter.section(group.capitalize()):
                formatter.write_dl([(name, row.summary) for name, row in VERBS.items() if row.group == group])


def main() -> int:
    return run(sys.argv[1:], stdout=sys.stdout, stderr=sys.stderr, environ=os.environ, clock=SystemClock())


def run(argv: Sequence[str], *, stdout: TextIO, stderr: TextIO, environ: Mapping[str, str], clock: Clock) -> int:
    """Do what argv says; give the exit status."""
    raise NotImplementedError
