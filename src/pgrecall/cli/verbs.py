"""The table of verbs, and the root command that imports a verb's module when it is used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import NamedTuple

import click

from pgrecall import __version__
from pgrecall.cli.options import global_options


class VerbRow(NamedTuple):
    """A verb: the module that holds `command`, and what the overview says of it."""

    module: str
    group: str
    summary: str


VERBS: Mapping[str, VerbRow] = {
    "init": VerbRow("pgrecall.cli.init", "set up", "Protect a cluster: repository, key, configuration, settings"),
    "check": VerbRow("pgrecall.cli.check", "set up", "Prove that settings, rights, keys and archiving work now"),
    "demo": VerbRow("pgrecall.cli.demo", "set up", "Lose a table of a scratch PostgreSQL and get it back"),
    "backup": VerbRow("pgrecall.cli.backup", "save", "Back up a cluster: incremental when it can be, else full"),
    "restore": VerbRow("pgrecall.cli.restore", "bring back", "Recover a cluster to any moment, into a directory"),
    "list": VerbRow("pgrecall.cli.list", "look, prove", "Backups: their state, size and what they reach"),
    "show": VerbRow("pgrecall.cli.show", "look, prove", "Everything known about one backup"),
    "status": VerbRow("pgrecall.cli.status", "look, prove", "What can be recovered now, and what would be lost"),
    "verify": VerbRow("pgrecall.cli.verify", "look, prove", "Read and check every stored byte"),
    "wal": VerbRow("pgrecall.cli.wal", "plumbing", "push, fetch: what PostgreSQL calls to archive and to recover"),
}  # fmt: skip
ALIASES = {"doctor": "check"}


class VerbTable(click.Group):
    """Verbs by name; the overview imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = VERBS.get(ALIASES.get(cmd_name, cmd_name))
        if row is None:
            close = difflib.get_close_matches(cmd_name, [*VERBS, *ALIASES], n=1)
            cure = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(VERBS)}."
            raise click.UsageError(f"'{cmd_name}' is no verb. {cure}", ctx)
        command: click.Command = importlib.import_module(row.module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group in dict.fromkeys(row.group for row in VERBS.values()):
            with formatter.section(group.capitalize()):
                formatter.write_dl([(name, row.summary) for name, row in VERBS.items() if row.group == group])


def root() -> click.Group:
    return VerbTable(
        name="pgrecall",
        callback=_overview,
        invoke_without_command=True,
        help="Backup and recovery for PostgreSQL that proves itself by restoring.\n\n"
        "Begin with `pgrecall init --repo DIR --pgdata DIR`, then `pgrecall check` and `pgrecall backup`. "
        "`pgrecall VERB --help` explains a verb, with examples.",
        params=[*global_options(writes=False), _version_option()],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


def _overview() -> None:
    ctx = click.get_current_context()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _version_option() -> click.Option:
    def show(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            click.echo(f"pgrecall {__version__}")
            ctx.exit()

    return click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show the version and exit."
    )
