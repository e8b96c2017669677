"""Configuration of a restored directory: what lay outside or pointed elsewhere is brought inside, so that it starts.

`pg_ctl start -D DIR` reads DIR/postgresql.conf; `data_directory` in it would beat `-D` and lead to the original, and
`external_pid_file`, absolute includes or an absolute log directory of a copy would meddle with the original's files.
Pure: contents come in, edited contents go out.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pgrecall.errors import ConfSyntax
from pgrecall.postgres.conffile import (
    AUTO_CONF,
    MAIN_CONF,
    MAX_DEPTH,
    ConfFile,
    Line,
    commented,
    is_included_name,
    quote,
)

PLACE = PurePosixPath("pgrecall-config")
"""Below the restored directory: included files that lay outside of the original one."""

HBA_CONF, IDENT_CONF = "pg_hba.conf", "pg_ident.conf"
HOMES = {"config_file": MAIN_CONF, "hba_file": HBA_CONF, "ident_file": IDENT_CONF}
_LOCATIONS = frozenset({"data_directory", "config_file", "hba_file", "ident_file", "external_pid_file"})
_PATH_SETTINGS = frozenset(
    {
        "log_directory",
        "ssl_cert_file",
        "ssl_key_file",
        "ssl_ca_file",
        "ssl_crl_file",
        "ssl_crl_dir",
        "ssl_dh_params_file",
        "krb_server_keyfile",
        "unix_socket_directories",
    }
)
_NOTE = "pointed outside, disabled by pgrecall restore"
_ACCESS_INCLUDE = re.compile(rb'[ \t]*(include|include_if_exists|include_dir)[ \t]+(?:"([^"]+)"|([^\s#"]+))')
_DEFAULTS = {
    MAIN_CONF: (b"# The backup holds no postgresql.conf: defaults apply.\n", "PostgreSQL's defaults apply"),
    HBA_CONF: (b"local all all peer\n", "only the owner of the directory can connect, by socket"),
}

Follow = Callable[[PurePosixPath, PurePosixPath], None]
"""Adapt an included file: (where it was, where it stands now)."""


@dataclass(frozen=True, slots=True)
class OutsideContent:
    """A configuration file that lay outside the original data directory: its family's setting, where it lay, its bytes.

    Included files carry the setting of the file that includes them.
    """

    setting: str
    source: PurePosixPath
    content: bytes


@dataclass(frozen=True, slots=True)
class Inside:
    """The restored data directory as far as configuration goes: read a file by relative path, list a directory."""

    read: Callable[[PurePosixPath], bytes | None]
    names: Callable[[PurePosixPath], list[str]]


@dataclass(slots=True)
class Adapted:
    """Files to write below the restored directory (new or edited), and what a person should know."""

    files: dict[PurePosixPath, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Adapter:
    original: PurePosixPath
    inside: Inside
    outside: Mapping[PurePosixPath, OutsideContent]
    result: Adapted = field(default_factory=Adapted)
    placed: dict[PurePosixPath, PurePosixPath] = field(default_factory=dict)

    def conf(self, source: PurePosixPath, destination: PurePosixPath, depth: int = 0) -> None:
        """Read the file that was at `source`, adapt it and everything it includes, for its place at `destination`."""
        content = self.begin(source, destination, depth)
        if content is None:
            return
        try:
            parsed = ConfFile.parse(content, source=str(source))
        except ConfSyntax as error:
            self.result.notes.append(error.message)
            self.write(destination, content)
            return
        edited = parsed.edit(lambda line: self.line(line, source, destination, depth))
        self.write(destination, edited.to_bytes())

    def begin(self, source: PurePosixPath, destination: PurePosixPath, depth: int) -> bytes | None:
        """The file's bytes; None if it is done already (or in a circle, where the server gives up itself)."""
        if depth > MAX_DEPTH or source in self.placed:
            return None
        self.placed[source] = destination
        return self.content(source)

    def line(self, line: Line, source: PurePosixPath, destination: PurePosixPath, depth: int) -> list[bytes] | None:
        assert line.name is not None
        if line.is_include:
            target = normal(source.parent / os.fsdecode(line.value))
            return self.include(line.name, line, target, destination, lambda old, new: self.conf(old, new, depth + 1))
        if line.name in _LOCATIONS:
            return [commented(line, _NOTE)]
        if line.name in _PATH_SETTINGS:
            return self.path_setting(line)
        return None

    def path_setting(self, line: Line) -> list[bytes] | None:
        """An absolute path into the original data directory becomes relative: a copy's server has its own."""
        relative = self.below_original(PurePosixPath(os.fsdecode(line.value)))
        if relative is None or "," in os.fsdecode(line.value):
            return None
        assert line.name is not None
        return [commented(line, "pointed into the original"), line.name.encode() + b" = " + quote(str(relative))]

    def access(self, source: PurePosixPath, destination: PurePosixPath, depth: int = 0) -> None:
        """As `conf`, for pg_hba.conf and pg_ident.conf, which include since PostgreSQL 16."""
        content = self.begin(source, destination, depth)
        if content is None:
            return

        def follow(old: PurePosixPath, new: PurePosixPath) -> None:
            self.access(old, new, depth + 1)

        lines: list[bytes] = []
        for raw in content.splitlines(keepends=True):
            if b"@/" in raw.split(b"#")[0]:
                self.result.notes.append(f"{destination} reads a file by absolute path: {os.fsdecode(raw.strip())}")
            match = _ACCESS_INCLUDE.match(raw)
            new = None
            if match is not None:
                line = Line(raw, match[1].decode(), match[2] or match[3])
                target = normal(source.parent / os.fsdecode(line.value))
                new = self.include(match[1].decode(), line, target, destination, follow)
            lines += [raw] if new is None else [each + b"\n" for each in new]
        self.write(destination, b"".join(lines))

    def include(
        self, directive: str, line: Line, target: PurePosixPath, destination: PurePosixPath, follow: Follow
    ) -> list[bytes] | None:
        """The lines that stand for an include directive at `destination`; None where it is right as it is."""
        if directive == "include_dir":
            return self.include_dir(line, target, destination, follow)
        place = self.place(target)
        if place is None:
            return self.lost(directive, line)
        follow(target, place)
        return self.pointing(line, directive, place, destination)

    def include_dir(
        self, line: Line, target: PurePosixPath, destination: PurePosixPath, follow: Follow
    ) -> list[bytes] | None:
        relative = self.below_original(target)
        if relative is not None:
            for name in sorted(filter(is_included_name, self.inside.names(relative)), key=os.fsencode):
                follow(target / name, relative / name)
            return self.pointing(line, "include_dir", relative, destination)
        members = [path for path in self.outside if path.parent == target and is_included_name(path.name)]
        if not members:
            self.result.notes.append(f"include_dir '{target}' was empty or is not in the backup; it is disabled")
        lines = [commented(line, "its files are included one by one")]
        for member in sorted(members, key=os.fsencode):
            place = self.place(member)
            assert place is not None, "an outside file always finds a place"
            follow(member, place)
            lines.append(b"include " + quote(os.path.relpath(place, destination.parent)))
        return lines

    def lost(self, directive: str, line: Line) -> list[bytes]:
        if directive == "include":
            shown = os.fsdecode(line.value)
            self.result.notes.append(f"include '{shown}' is not in the backup; it is disabled in what is restored")
        return [commented(line, "not in the backup, disabled by pgrecall restore")]

    def pointing(
        self, line: Line, directive: str, place: PurePosixPath, destination: PurePosixPath
    ) -> list[bytes] | None:
        """None if the directive as it stands leads from `destination` to `place`."""
        written = os.fsdecode(line.value)
        if not written.startswith("/") and normal(destination.parent / written) == place:
            return None
        return [
            commented(line, "led out of the original"),
            directive.encode() + b" " + quote(os.path.relpath(place, destination.parent)),
        ]

    def place(self, source: PurePosixPath) -> PurePosixPath | None:
        """Where a file that was at `source` stands below the restored directory; None if the backup lacks it."""
        if source in self.placed:
            return self.placed[source]
        relative = self.below_original(source)
        if relative is not None:
            return relative if self.inside.read(relative) is not None else None
        if source not in self.outside:
            return None
        return PLACE / f"{sum(place.parent == PLACE for place in self.placed.values()) + 1:02}-{source.name}"

    def content(self, source: PurePosixPath) -> bytes | None:
        if source in self.outside:
            return self.outside[source].content
        relative = self.below_original(source)
        return None if relative is None else self.inside.read(relative)

    def below_original(self, path: PurePosixPath) -> PurePosixPath | None:
        return path.relative_to(self.original) if path.is_relative_to(self.original) else None

    def write(self, destination: PurePosixPath, content: bytes) -> None:
        if self.inside.read(destination) != content:
            self.result.files[destination] = content

    def home(self, setting: str, told: str | None) -> PurePosixPath:
        """Where the original's server read its main file of this kind.

        Told or, where the backup does not say, found: the file inside unless the first one outside is not its include.
        """
        inside = self.original / HOMES[setting]
        if told:
            return normal(PurePosixPath(told))
        outside = [path for path, each in self.outside.items() if each.setting == setting]
        if not outside:
            return inside
        own = self.content(inside)
        if own is None or b"include" not in own:
            return outside[0]
        probe = _Adapter(self.original, self.inside, self.outside)
        (probe.conf if setting == "config_file" else probe.access)(inside, PurePosixPath(HOMES[setting]))
        return inside if outside[0] in probe.placed else outside[0]


def adapt_configuration(
    original: PurePosixPath, inside: Inside, outside: Iterable[OutsideContent], told: Mapping[str, str] | None = None
) -> Adapted:
    """Everything that must be written so that the restored directory starts alone, and only touches itself.

    `told`: the settings config_file, hba_file and ident_file of the original's server, where they are known.
    """
    adapter = _Adapter(normal(original), inside, {normal(each.source): each for each in outside})
    result = adapter.result
    sources = {setting: adapter.home(setting, (told or {}).get(setting)) for setting in HOMES}
    for setting, source in sources.items():
        destination = PurePosixPath(HOMES[setting])
        unused = inside.read(destination)
        if source != adapter.original / destination and unused is not None:
            result.files[PLACE / f"unused-{destination}"] = unused  # the original's server did not read this one
        (adapter.conf if setting == "config_file" else adapter.access)(source, destination)
    adapter.conf(adapter.original / AUTO_CONF, PurePosixPath(AUTO_CONF))
    for name, (content, note) in _DEFAULTS.items():
        destination = PurePosixPath(name)
        if inside.read(destination) is None and destination not in result.files:
            result.files[destination] = content
            result.notes.append(f"the backup holds no {name}: {note}")
    return result


def normal(path: PurePosixPath) -> PurePosixPath:
    """Without `.` and `..`, as text: the original's directories are not here to be asked."""
    return PurePosixPath(os.path.normpath(path))
