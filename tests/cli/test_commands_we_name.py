"""Commands that hints, help, pages and stored texts tell people to type can be typed."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pgrecall.cli.verbs import ALIASES, VERBS, root
from pgrecall.repository.readme import README_TEXT

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOLD_IN = {"hint", "cure", "hints"}
CALL = re.compile(r"pgrecall (?=[-a-z])([^`;\n→…()]*)")
PLACEHOLDER = "X"
PROSE = {"where", "runs", "sources."}  # what follows the name where it is no command


def hints() -> Iterator[tuple[str, str]]:
    """Every text of the program that says what to do next, with its place; what is put in at run time is an X."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg in TOLD_IN:
                for text in texts(node.value):
                    yield f"{path.relative_to(ROOT)}:{node.value.lineno}", text


def texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values)


def pages() -> Iterator[tuple[str, str]]:
    """Lines of code blocks and code in the text."""
    for path in PAGES:
        inside = False
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if line.startswith("```"):
                inside = not inside
            for text in [line] if inside else re.findall(r"`(pgrecall [^`]*)`", line):
                yield f"{path.relative_to(ROOT)}:{number}", text.partition(" # ")[0]


def calls() -> Iterator[tuple[str, str]]:
    readme = [("README.txt", line) for line in README_TEXT.decode().splitlines()]
    for place, text in (*hints(), *pages(), *readme):
        for match in CALL.finditer(text):
            if match[1].partition(" ")[0] not in PROSE:
                yield place, match[1].strip()


def problem(call: str) -> str | None:
    """Why a call cannot be meant as it stands; None if it can."""
    try:
        words = shlex.split(call.split(",")[0].replace("'", ""))
    except ValueError:
        words = call.split()
    command: click.Command = root()
    context = click.Context(command)
    known = options(command)
    while words:
        word = words.pop(0).rstrip(":.")
        if word.startswith("-"):
            name = word.partition("=")[0]
            if name not in known:
                return f"{name} is no option of {command.name}"
            if known[name].nargs and not known[name].is_flag and words:
                words.pop(0)
        elif isinstance(command, click.Group):
            if command.name == "pgrecall" and word not in {*VERBS, *ALIASES, "VERB"}:
                return f"'{word}' is no verb"
            if word == "VERB":
                return None
            found = command.get_command(context, word)
            if found is None:
                return f"'{word}' is no part of {command.name}"
            command = found
            known = {**known, **options(command)}
    return None


def options(command: click.Command) -> dict[str, click.Option]:
    found = {name: each for each in command.params if isinstance(each, click.Option) for name in each.opts}
    return {**found, "--help": click.Option(["--help"], is_flag=True)}


@pytest.mark.parametrize(("place", "call"), sorted(set(calls())))
def test_what_we_tell_people_to_type_can_be_typed(place: str, call: str) -> None:
    assert problem(call) is None, f"{place}: pgrecall {call}"


@pytest.mark.parametrize("call", ["info", "restore main2 --frmo X", "init -c X --unknown-option", "wal pull"])
def test_what_cannot_be_typed_is_found(call: str) -> None:
    assert problem(call) is not None
