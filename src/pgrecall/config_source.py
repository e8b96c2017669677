"""Where settings come from: a TOML file with the line of every key, the environment; and how problems are told."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pgrecall.errors import ConfigInvalid

Key = tuple[str, ...]
"""A setting's place: ("clusters", "main", "pgdata")."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}#\n]*")
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")


class Problem(NamedTuple):
    """One thing wrong: FILE:LINE (or the variable's name), what, and its cure."""

    where: str
    what: str
    cure: str


@dataclass(frozen=True)
class Source:
    """Settings as read, before anybody knows what they mean."""

    path: Path | None = None
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Key, int] = field(default_factory=dict)
    variables: dict[Key, str] = field(default_factory=dict)
    """Settings that an environment variable gave: key → name of the variable."""

    @property
    def base(self) -> Path:
        """What relative paths are relative to."""
        return self.path.parent if self.path else Path.cwd()

    def where(self, key: Key) -> str:
        """FILE:LINE of the setting, or of the closest table around it; the variable's name if one gave it."""
        if key in self.variables:
            return f"environment {self.variables[key]}"
        while key and key not in self.lines:
            key = key[:-1]
        return f"{self.path}:{self.lines.get(key, 1)}" if self.path else "environment"

    def origin(self, key: Key) -> str:
        return self.where(key) if key in self.variables or key in self.lines else "default"


def read_file(path: Path) -> Source:
    """Parse the file; ConfigInvalid names file and line of what is not TOML."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigInvalid(
            f"configuration {path} does not exist", hint="pgrecall init writes one; or name it: --config FILE"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(
            f"configuration {path} cannot be read: {error}", hint=f"make it readable: chmod a+r {path}"
        ) from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        number = int(line[1]) if line else text.count("\n") + 1
        what = re.sub(r" \(at .*\)$", "", str(error))
        raise ConfigInvalid(
            f"{path}:{number}: {what}", hint='this is not TOML; texts need quotes: key = "value"'
        ) from None
    return Source(path, values, _Lines(text).found)


def refuse(problems: list[Problem]) -> None:
    """Raise ConfigInvalid naming every problem at once; nothing if there is none."""
    if len(problems) == 1:
        where, what, cure = problems[0]
        raise ConfigInvalid(f"{where}: {what}", hint=cure, where=where)
    if problems:
        lines = [f"{each.where}: {each.what} → {each.cure}" for each in problems]
        raise ConfigInvalid(
            "\n".join([f"{len(problems)} problems in the configuration", *lines]),
            hint="correct them all, then: pgrecall check --only config",
            problems=lines,
        )


def with_environment(
    source: Source, environ: Mapping[str, str], *, names: Mapping[str, frozenset[str]], single: Collection[str]
) -> Source:
    """Lay PGRECALL_A__B__C=value over a.b.c, PGRECALL_A over a where a is one of `single`.

    `names`: what a table (clusters) holds already; these names are found whatever their case and dashes.
    """
    values, variables = _copy(source.values), dict(source.variables)
    for variable, text in sorted(environ.items()):
        rest = variable.removeprefix("PGRECALL_").lower()
        if variable.startswith("PGRECALL_") and ("__" in rest or rest in single):
            key = _key_of_variable(rest, names)
            variables[key] = variable
            _lay(values, key, text)
    return Source(source.path, values, source.lines, variables)


def _lay(table: dict[str, Any], key: Key, text: str) -> None:
    for part in key[:-1]:
        if not isinstance(table.get(part), dict):
            table[part] = {}
        table = table[part]
    table[key[-1]] = text


def _key_of_variable(lowered: str, names: Mapping[str, frozenset[str]]) -> Key:
    first, *rest = lowered.split("__")
    if rest and first in names:
        rest[0] = next((name for name in names[first] if name.replace("-", "_") == rest[0]), rest[0])
    return (first, *rest)


def _copy(table: dict[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in table.items()}


class _Lines:
    """The line of every key of a text that tomllib has accepted. Knows only as much TOML as finding keys needs."""

    def __init__(self, text: str) -> None:
        self.found: dict[Key, int] = {}
        self._text, self._at = text, 0
        self._arrays: dict[Key, int] = {}
        prefix: Key = ()
        while self._skip(_BLANK):
            prefix = self._header() if self._next() == "[" else self._statement(prefix)

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._at < len(self._text)

    def _next(self, count: int = 1) -> str:
        return self._text[self._at : self._at + count]

    def _header(self) -> Key:
        array = self._next(2) == "[["
        self._at += 2 if array else 1
        key = self._key(())
        self._at += 2 if array else 1
        if array:
            self._arrays[key] = self._arrays.get(key, -1) + 1
            key = (*key, str(self._arrays[key]))
        return key

    def _statement(self, prefix: Key) -> Key:
        self._value(self._key(prefix))
        return prefix

    def _key(self, prefix: Key) -> Key:
        """A dotted key; its line, and that of every table it opens, is noted."""
        for part in self._parts():
            prefix = (*prefix, part)
            self.found.setdefault(prefix, self._text.count("\n", 0, self._at) + 1)
        return prefix

    def _parts(self) -> Iterator[str]:
        while True:
            self._skip(_SPACE)
            begin = self._at
            if self._next() in "\"'":
                self._string()
                yield next(iter(tomllib.loads(self._text[begin : self._at] + " = 0")))
            else:
                self._skip(_BARE_KEY)
                yield self._text[begin : self._at]
            self._skip(_SPACE)
            if self._next() != ".":
                return
            self._at += 1

    def _value(self, key: Key) -> None:
        self._skip(_SPACE)
        if self._next() == "=":
            self._at += 1
            self._skip(_SPACE)
        match self._next():
            case '"' | "'":
                self._string()
            case "[":
                self._items("]", key)
            case "{":
                self._items("}", key)
            case _:
                self._skip(_BARE_VALUE)

    def _items(self, end: str, key: Key) -> None:
        self._at += 1
        number = 0
        while self._skip(_BLANK) and self._next() != end:
            self._value((*key, str(number)) if end == "]" else self._key(key))
            self._skip(_BLANK)
            self._at += self._next() == ","
            number += 1
        self._at += 1

    def _string(self) -> None:
        quote = self._next()
        quote = quote * 3 if self._next(3) == quote * 3 else quote
        self._at += len(quote)
        while self._next(len(quote)) != quote:
            self._at += 2 if self._next() == "\\" and quote[0] == '"' else 1
        self._at += len(quote)
        while len(quote) == 3 and self._next() == quote[0]:
            self._at += 1
