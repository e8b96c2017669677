"""PostgreSQL's configuration files as bytes: what a line says, and how one is changed without touching the others.

The grammar is that of PostgreSQL's `guc-file.l`: `name [=] value [# comment]`, names without regard to case, values
bare or in single quotes with `''` and backslash escapes, and the directives `include`, `include_if_exists` and
`include_dir`, whose relative paths are relative to the file that holds them. The last occurrence of a setting wins;
`postgresql.auto.conf` is read after everything else.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pgrecall.errors import ConfSyntax

AUTO_CONF = "postgresql.auto.conf"
MAIN_CONF = "postgresql.conf"
INCLUDES = frozenset({"include", "include_if_exists", "include_dir"})
MAX_DEPTH = 10  # CONF_FILE_MAX_DEPTH in guc-file.l

_LINE = re.compile(
    rb"""[ \t\r\f\v]*
    (?: (?P<name>[A-Za-z_\x80-\xff][A-Za-z_0-9$\x80-\xff]*(?:\.[A-Za-z_\x80-\xff][A-Za-z_0-9$\x80-\xff]*)*)
        (?: [ \t\r]*=[ \t\r]* | [ \t\r]+ | (?=') )
        (?P<value>'(?:[^'\\\n]|\\.|'')*'|[^\s'#=\x00]+)
        [ \t\r]*
    )?
    (?:\#.*)? \Z""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)|''", re.DOTALL)
_CONTROLS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def quote(value: bytes | str) -> bytes:
    """A value in the single quotes of a configuration file; what `unquote` gives back."""
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    if b"\x00" in data:
        raise ConfSyntax("a PostgreSQL setting cannot hold a zero byte")
    escaped = data.replace(b"\\", b"\\\\").replace(b"'", b"''").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return b"'" + escaped + b"'"


def unquote(token: bytes) -> bytes:
    """The value of a token as PostgreSQL reads it (`DeescapeQuotedString`)."""
    if not token.startswith(b"'"):
        return token
    return _ESCAPE.sub(_unescape, token[1:-1])


def _unescape(match: re.Match[bytes]) -> bytes:
    escaped = match.group(1)
    if escaped is None:
        return b"'"
    if escaped[:1] in b"01234567":
        return bytes([int(escaped, 8) & 0xFF])
    return _CONTROLS.get(escaped, escaped)


def parse_bool(value: bytes) -> bool | None:
    """As `parse_bool` in bool.c: unique prefixes of true, false, yes, no; on, off, 1, 0. None: not a boolean."""
    word = value.strip().lower()
    if not word:
        return None
    if b"true".startswith(word) or b"yes".startswith(word) or word in (b"on", b"1"):
        return True
    if b"false".startswith(word) or b"no".startswith(word) or word in (b"of", b"off", b"0"):
        return False
    return None


def parse_int(value: bytes) -> int | None:
    """A plain integer setting without unit (`100`, `0x64`, `1e2`, `100.0`); None where it is not one."""
    text = value.strip().decode("ascii", "replace").lower()
    try:
        return int(text, 0)
    except ValueError:
        pass
    try:
        return round(float(text))
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Line:
    """One line: `raw` with its end as it stands in the file; `name` in lower case, None where nothing is set."""

    raw: bytes
    name: str | None = None
    value: bytes = b""

    @property
    def is_include(self) -> bool:
        return self.name in INCLUDES


Edit = Callable[[Line], Iterable[bytes] | None]


@dataclass(frozen=True, slots=True)
class ConfFile:
    """One file, line by line. `to_bytes` gives back exactly what was parsed, but for the lines that were edited."""

    lines: tuple[Line, ...]

    @classmethod
    def parse(cls, data: bytes, *, source: str = MAIN_CONF) -> "ConfFile":
        """Raise ConfSyntax naming source and line number."""
        return cls(tuple(_parse_line(raw, source, i) for i, raw in enumerate(_split(data), start=1)))

    def to_bytes(self) -> bytes:
        return b"".join(line.raw for line in self.lines)

    def find(self, name: str) -> bytes | None:
        """The value that counts in this file alone: the last one."""
        return next((line.value for line in reversed(self.lines) if line.name == name.lower()), None)

    def edit(self, change: Edit) -> "ConfFile":
        """Each line that sets something goes through `change`: None keeps it, else new lines (without line ends)."""
        lines: list[Line] = []
        for line in self.lines:
            replacement = None if line.name is None else change(line)
            if replacement is None:
                lines.append(line)
            else:
                lines.extend(_parse_line(raw + b"\n", "edited", 0) for raw in replacement)
        return ConfFile(tuple(lines))

    def comment_out(self, matches: Callable[[str], bool], *, note: str) -> "ConfFile":
        """Settings whose name matches stay readable as comments with a note; includes are not settings."""

        def change(line: Line) -> list[bytes] | None:
            if line.name is None or line.is_include or not matches(line.name):
                return None
            return [commented(line, note)]

        return self.edit(change)

    def append(self, lines: Iterable[bytes]) -> "ConfFile":
        """Lines (without line ends) after everything else, so that they win."""
        kept = list(self.lines)
        if kept and not kept[-1].raw.endswith(b"\n"):
            last = kept[-1]
            kept[-1] = Line(last.raw + b"\n", last.name, last.value)
        return ConfFile((*kept, *(_parse_line(raw + b"\n", "appended", 0) for raw in lines)))


def commented(line: Line, note: str) -> bytes:
    return b"# " + line.raw.strip() + b"  # " + note.encode()


def _split(data: bytes) -> list[bytes]:
    """Lines end at \\n only, as PostgreSQL sees it; other control characters belong to the line."""
    parts = [part + b"\n" for part in data.split(b"\n")]
    parts[-1] = parts[-1][:-1]
    return parts if parts[-1] else parts[:-1]


def _parse_line(raw: bytes, source: str, number: int) -> Line:
    text = raw[3:] if number == 1 and raw.startswith(b"\xef\xbb\xbf") else raw
    match = _LINE.match(text.rstrip(b"\n"))
    if match is None:
        shown = raw.strip()[:80].decode("utf-8", "backslashreplace")
        raise ConfSyntax(
            f"{source} line {number} is not a PostgreSQL setting: {shown}",
            hint="PostgreSQL refuses such a line, too; mend it at its source.",
            file=source,
            line=number,
        )
    if match["name"] is None:
        return Line(raw)
    return Line(raw, match["name"].decode("utf-8", "surrogateescape").lower(), unquote(match["value"]))


@dataclass(frozen=True, slots=True)
class Located:
    """A setting and where it stands; `number` counts from 1."""

    name: str
    value: bytes
    file: Path
    number: int


@dataclass(slots=True)
class ConfTree:
    """A configuration with its includes, in the order PostgreSQL reads it."""

    settings: list[Located] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    missing: list[Located] = field(default_factory=list)
    """Include directives that lead nowhere (`include_if_exists` not among them)."""

    def effective(self, name: str) -> Located | None:
        return next((found for found in reversed(self.settings) if found.name == name.lower()), None)

    def value(self, name: str, default: str = "") -> str:
        """The text of the setting that wins, or default where no file sets it."""
        found = self.effective(name)
        return default if found is None else os.fsdecode(found.value)


def read_configuration(pgdata: Path, *, main: Path | None = None) -> ConfTree:
    """`postgresql.conf` (or `main`) with everything it includes, then `postgresql.auto.conf`.

    Raise ConfSyntax for a line PostgreSQL would refuse or an include nested deeper than it allows.
    """
    tree = ConfTree()
    for path in (main or pgdata / MAIN_CONF, pgdata / AUTO_CONF):
        if path.is_file():
            _read_into(tree, path, depth=0)
    return tree


def _read_into(tree: ConfTree, path: Path, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ConfSyntax(f"includes are nested deeper than {MAX_DEPTH} at {path}", file=str(path))
    tree.files.append(path)
    for number, line in enumerate(ConfFile.parse(path.read_bytes(), source=str(path)).lines, start=1):
        if line.name is None:
            continue
        located = Located(line.name, line.value, path, number)
        if not line.is_include:
            tree.settings.append(located)
            continue
        targets = included_files(line, path.parent)
        if targets is None:
            tree.missing.append(located)
        for target in targets or []:
            _read_into(tree, target, depth=depth + 1)


def included_files(line: Line, directory: Path) -> list[Path] | None:
    """The files an include directive in `directory` stands for, in order; None where it leads nowhere and must not."""
    target = directory / os.fsdecode(line.value)
    if line.name == "include_dir":
        return conf_files(target) if target.is_dir() else None
    if target.is_file():
        return [target]
    return [] if line.name == "include_if_exists" else None


def conf_files(directory: Path) -> list[Path]:
    """What `include_dir` reads: visible files ending in `.conf`, by the bytes of their names (`GetConfFilesInDir`)."""
    found = [entry for entry in directory.iterdir() if is_included_name(entry.name) and entry.is_file()]
    return sorted(found, key=lambda entry: os.fsencode(entry.name))


def is_included_name(name: str) -> bool:
    return name.endswith(".conf") and not name.startswith(".") and len(name) > len(".conf")
