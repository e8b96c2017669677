"""How verbs declare themselves: the global options that hold everywhere, and the `verb` decorator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pgrecall.cli.invocation import Invocation

argument = click.argument
option = click.option

FILE = click.Path(readable=False, path_type=Path)  # whether it can be read is told where it is read
VerbFunction = Callable[..., int | None]


def verb(
    name: str,
    *,
    examples: Sequence[str],
    writes: bool = False,
    globals_hidden: bool = False,
    without: Sequence[str] = (),
) -> Callable[[VerbFunction], click.Command]:
    """Make a command of a function `(run: Invocation, …options) -> exit status or None`; its docstring is the help.

    without: flags of global options that mean nothing to this verb.
    """

    def decorate(function: VerbFunction) -> click.Command:
        @functools.wraps(function)
        def invoke(*args: Any, **kwargs: Any) -> None:
            run: Invocation = click.get_current_context().find_root().obj
            run.verb = click.get_current_context().command_path.partition(" ")[2]
            run.start_logging()
            run.exit_status = function(run, *args, **kwargs) or 0

        command = click.command(name, cls=Verb)(invoke)
        assert isinstance(command, Verb)
        command.examples = tuple(examples)
        command.params += global_options(
            writes=writes, hidden=globals_hidden, taken=_flags(command.params) | frozenset(without)
        )
        return command

    return decorate


class Verb(click.Command):
    """A command whose help ends in examples, printed as they are to be typed."""

    examples: tuple[str, ...] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)))


def global_options(*, writes: bool, hidden: bool = False, taken: frozenset[str] = frozenset()) -> list[click.Parameter]:
    """The grammar's options: the same before the verb (`pgrecall --json list`) and after it."""
    options = [
        _option("-c", "--cluster", "clusters", multiple=True, metavar="NAME", help="Which cluster (glob, repeatable)."),
        _option("--repo", "repository", metavar="NAME|URL", help="Repository: a configured name, a directory or URL."),
        _option("--config", "config", type=FILE, metavar="FILE", help="Configuration file."),
        _option(
            "--identity-file", "identity_file", type=FILE, metavar="FILE",
            help="age identity or recovery passphrase that opens the repository.",
        ),
        _option("--json", "json", is_flag=True, help="Result as JSON on stdout."),
        _option("-q", "--quiet", "quiet", is_flag=True, help="Only warnings and errors on stderr."),
        _option("-v", "--verbose", "verbose", count=True, help="More on stderr; -vv with tracebacks."),
    ]  # fmt: skip
    if writes:
        options += [
            _option("--dry-run", "dry_run", is_flag=True, help="Show what would be done; write nothing."),
            _option("--yes", "yes", is_flag=True, help="Never ask. Scripts may always say it; no verb asks yet."),
        ]
    for each in options:
        each.hidden = hidden
    return [each for each in options if taken.isdisjoint(each.opts)]


def _option(*declarations: str, **attributes: Any) -> click.Option:
    return click.Option(declarations, expose_value=False, callback=_store, **attributes)


def _store(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if ctx.get_parameter_source(parameter.name or "") is not click.core.ParameterSource.COMMANDLINE:
        return
    run: Invocation = ctx.find_root().obj
    run.apply(parameter.name or "", value)


def _flags(parameters: Sequence[click.Parameter]) -> frozenset[str]:
    return frozenset(flag for each in parameters for flag in each.opts)
