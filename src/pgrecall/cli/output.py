"""Streams: the result on stdout (lines or one JSON envelope), notes and errors on stderr, colours on terminals."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import PurePath
from typing import Any, NamedTuple, TextIO

from pgrecall.domain.lsn import Lsn
from pgrecall.errors import PgrecallError

STYLES = {"": "", "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Span(NamedTuple):
    """Text with a style; plain text has style ''."""

    text: str
    style: str = ""


Line = str | Span | tuple[str | Span, ...]
Text = Callable[[], Iterable[Line]]


class Output:
    def __init__(
        self, stdout: TextIO, stderr: TextIO, *, environ: Mapping[str, str],
        json: bool = False, quiet: bool = False, verbose: int = 0,
    ) -> None:  # fmt: skip
        self.stdout, self.stderr = stdout, stderr
        self.json, self.quiet, self.verbose = json, quiet, verbose
        self._plain = bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"

    def result(self, name: str, version: int, *, at: datetime, data: object, text: Text) -> None:
        """With --json `{"schema":"pgrecall.NAME/VERSION","at":…,"data":…}`, else the lines of text()."""
        if self.json:
            self._json({"schema": f"pgrecall.{name}/{version}", "at": jsonable(at), "data": jsonable(data)})
            return
        for line in text():
            self.stdout.write(self.paint(line, self.stdout) + "\n")

    def note(self, *parts: str | Span) -> None:
        """A line for a person, on stderr; dropped by -q."""
        if not self.quiet:
            self.stderr.write(self.paint(parts, self.stderr) + "\n")
            self.stderr.flush()

    def warn(self, text: str) -> None:
        self.stderr.write(self.paint((Span("warning: ", "yellow"), text), self.stderr) + "\n")
        self.stderr.flush()

    def error(self, error: PgrecallError) -> None:
        """Two lines: what happened, then → what to do next and the code; or the JSON error envelope on stdout."""
        if self.json:
            self._json(error_envelope(error))
            return
        *before, last = error.message.split("\n")
        for number, line in enumerate((*before, last)):
            head = (Span("error: ", "red"),) if number == 0 else ("  ",)
            self.stderr.write(self.paint((*head, line), self.stderr) + "\n")
        hint = f"  → {error.hint}" if error.hint else ""
        self.stderr.write(self.paint((hint, Span(f"  [{error.code}]", "dim")), self.stderr) + "\n")
        self.stderr.flush()

    def colours(self, stream: TextIO) -> bool:
        return not self._plain and stream.isatty()

    def paint(self, line: Line, stream: TextIO) -> str:
        """The line as it goes to the stream: control characters escaped, styles only where colours are wanted."""
        parts = line if isinstance(line, tuple) and not isinstance(line, Span) else (line,)
        return "".join(self._span(part, self.colours(stream)) for part in parts)

    @staticmethod
    def _span(part: str | Span | tuple[str | Span, ...], colours: bool) -> str:
        span = part if isinstance(part, Span) else Span(str(part))
        text = escape(span.text)
        return f"\x1b[{STYLES[span.style]}m{text}\x1b[0m" if colours and span.style else text

    def _json(self, envelope: dict[str, Any]) -> None:
        self.stdout.write(json.dumps(envelope, ensure_ascii=False, separators=(",", ":")) + "\n")


def error_envelope(error: PgrecallError) -> dict[str, Any]:
    return {"schema": "pgrecall.error/1", **error_data(error)}


def error_data(error: PgrecallError | None) -> dict[str, Any]:
    """An error as data, also inside a result; {} for None."""
    if error is None:
        return {}
    facts = {"message": error.message, "hint": error.hint, "facts": error.facts}
    return {"code": error.code, **jsonable(facts)}


def escape(text: str) -> str:
    r"""Control characters and undecodable bytes become \xNN, so that no name can drive the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in text)


def jsonable(value: object) -> Any:
    """Data for --json: times RFC 3339 UTC, LSNs as text, durations in seconds, sizes in bytes."""
    match value:
        case None | bool() | str() if not isinstance(value, enum.Enum):
            return escape(value) if isinstance(value, str) and not value.isascii() and _undecodable(value) else value
        case enum.Enum():
            return jsonable(value.value)
        case Lsn() | PurePath():
            return jsonable(str(value))
        case int() | float():
            return value
        case _ if type(value).__module__.startswith("pgrecall.domain") and type(value).__str__ is not object.__str__:
            return str(value)  # labels, targets: as people write them
        case bytes():
            return jsonable(os.fsdecode(value))  # names of files
        case datetime():
            return rfc3339(value)
        case timedelta():
            return value.total_seconds()
        case PgrecallError():
            return error_data(value)
        case Mapping():
            return {str(key): jsonable(each) for key, each in value.items()}
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {each.name: jsonable(getattr(value, each.name)) for each in dataclasses.fields(value)}
        case tuple() if hasattr(value, "_asdict"):
            return jsonable(value._asdict())
        case list() | tuple() | set() | frozenset():
            return [jsonable(each) for each in value]
    raise AssertionError(f"no JSON form for {type(value)}")


def rfc3339(moment: datetime) -> str:
    assert moment.tzinfo is not None, "a time without a zone"
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def _undecodable(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)
