"""What an option is: its kind, meaning and unit; and how a table of a source is read by its options."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast, get_type_hints

from pgrecall.config_source import Key, Problem, Source
from pgrecall.domain.humanize import parse_duration
from pgrecall.errors import ValueInvalid

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(?=\S)")
_PASSWORD = re.compile(r"\bpassword\s*=|//[^/@\s]*:[^/@\s]+@", re.IGNORECASE)


class Kind(NamedTuple):
    """A type of value: its name for people, and how it is read.

    `read(value, base)` gives the typed value or raises ValueInvalid with a cure as hint. Relative paths are below base.
    """

    name: str
    read: Callable[[Any, Path], Any]
    literal: bool = False
    """In the environment it is written as in TOML (4, ["a", "b"]), not as bare text."""


class Option(NamedTuple):
    """The annotation that makes a field of a `Table` something a user may set."""

    kind: Kind
    description: str
    unit: str = ""


class Table:
    """Base of the tables of the configuration."""

    special: ClassVar[Mapping[str, str]] = {}
    """Names that are no option here, and what to tell who writes them."""


def options_of(table: type[Table]) -> dict[str, Option]:
    """The table's options by name, in the order of declaration."""
    hints = get_type_hints(table, include_extras=True)
    options = {name: getattr(hint, "__metadata__", (None,))[0] for name, hint in hints.items()}
    return {name: option for name, option in options.items() if isinstance(option, Option)}


def default_of(table: type[Table], name: str) -> Any:
    """The option's default; dataclasses.MISSING when it must be set."""
    assert dataclasses.is_dataclass(table)
    return next(each.default for each in dataclasses.fields(table) if each.name == name)


class Reader:
    """Turns tables of a source into settings and gathers what is wrong with them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []

    def values(self, table: type[Table], key: Key, raw: Any, *, also: Sequence[str] = ()) -> dict[str, Any]:
        """What the table at key says, by option; wrong settings are noted as problems and left out.

        `also`: names that stand beside the options and are read elsewhere.
        """
        if not isinstance(raw, dict):
            self.problem(key, f"{dotted(key)} must be a table", f"[{dotted(key)}] with settings below it")
            return {}
        known = options_of(table)
        found = {}
        for name, value in raw.items():
            if name not in known:
                self._unknown((*key, name), [*known, *also], table.special)
                continue
            read = self._value(known[name], (*key, name), value)
            if read is not None:
                found[name] = read
        return found

    def _value(self, option: Option, key: Key, value: Any) -> Any:
        if key in self.source.variables and option.kind.literal:
            value = _literal(value)
        try:
            return option.kind.read(value, self.source.base)
        except ValueInvalid as error:
            cure = error.hint or f"write a {option.kind.name}"
            self.problem(key, f"{dotted(key)} = {_shown(value)}: {error.message}", cure)
            return None

    def _unknown(self, key: Key, known: list[str], special: Mapping[str, str]) -> None:
        name = key[-1]
        if name in special:
            self.problem(key, f"{dotted(key)} is no setting of this version", special[name])
            return
        from difflib import get_close_matches

        close = get_close_matches(name, known, n=1)
        cure = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        self.problem(key, f"{dotted(key)} is no setting", cure)

    def name(self, key: Key, name: str) -> None:
        if not NAME.fullmatch(name):
            cure = "lower-case letters, digits, _ and -; at most 63, a letter or digit first"
            self.problem(key, f"{dotted(key)}: '{name}' is no name", cure)

    def problem(self, key: Key, what: str, cure: str) -> None:
        self.problems.append(Problem(self.source.where(key), what, cure))


def dotted(key: Key) -> str:
    return ".".join(key)


def _literal(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _shown(value: Any) -> str:
    if _PASSWORD.search(str(value)):
        return "…"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _text(value: Any, _base: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueInvalid("must be a text", hint='write it in quotes: "…"')
    return value


def _path(value: Any, base: Path) -> Path:
    return base / Path(_text(value, base)).expanduser()


def _place(value: Any, base: Path) -> str:
    text = _text(value, base)
    return text if "://" in text else str(_path(text, base))


def _name(value: Any, base: Path) -> str:
    text = _text(value, base)
    if not NAME.fullmatch(text):
        raise ValueInvalid("is no name", hint="lower-case letters, digits, _ and -; at most 63")
    return text


def _duration(value: Any, base: Path) -> timedelta:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueInvalid("has no unit", hint=f'write "{value}s", or "10m", "1h30m"')
    return parse_duration(_text(value, base))


def _texts(value: Any, base: Path) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    return tuple(_text(item, base) for item in items)


def _dsn(value: Any, base: Path) -> str:
    text = _text(value, base)
    if _PASSWORD.search(text):
        cure = "secrets never stand in this file: use dsn_file, dsn_env or dsn_command, or ~/.pgpass"
        raise ValueInvalid("holds a password", hint=cure)
    return text


def integer(low: int, high: int) -> Kind:
    def read(value: Any, _base: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueInvalid(f"must be a whole number from {low} to {high}", hint="write it without quotes")
        return value

    return Kind(f"whole number, {low} to {high}", read, literal=True)


def choice(*words: str) -> Kind:
    def read(value: Any, _base: Path) -> str:
        if value not in words:
            raise ValueInvalid("is none of the choices", hint=f"one of: {', '.join(words)}")
        return cast(str, value)

    return Kind(" or ".join(f'"{word}"' for word in words), read)


TEXT = Kind("text", _text)
PATH = Kind("path", _path)
PLACE = Kind("directory or URL", _place)
NAME_KIND = Kind("name", _name)
DURATION = Kind("duration", _duration)
DSN = Kind("connection string", _dsn)
TEXTS = Kind("text or list of texts", _texts, literal=True)
