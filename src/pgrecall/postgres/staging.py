"""A stage: what a program needs to run, put where another user can reach it.

Root's interpreter, virtual environment or checkout may lie where nobody else may enter (`/root`, a private temporary
directory). The trees that the other user cannot read are linked into a fresh directory; nothing is changed where it
lies, and the stage is removed afterwards.
"""

import contextlib
import os
import shutil
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pgrecall
from pgrecall.errors import Refused
from pgrecall.postgres.users import OsUser, unreachable


@dataclass
class Stage:
    """A directory that `user` can enter, and which trees moved into it."""

    root: Path
    user: OsUser
    moved: dict[Path, Path] = field(default_factory=dict)

    @property
    def temporary(self) -> Path:
        """A private directory of the user's: HOME and TMPDIR of what runs here."""
        return self.root / "tmp"

    def translate(self, path: Path) -> Path:
        """Where a path lies for the user: inside the stage if its tree was moved."""
        for original, staged in self.moved.items():
            if path.is_relative_to(original):
                return staged / path.relative_to(original)
        return path

    def translate_argument(self, argument: str) -> str:
        """The same for a command line argument, `/path` or `--option=/path`."""
        option, equals, value = argument.rpartition("=")
        if not value.startswith("/"):
            return argument
        return f"{option}{equals}{self.translate(Path(value))}"

    def add(self, tree: Path, name: str, *, leave_out: Sequence[str] = ()) -> Path:
        """Link a tree into the stage, unless it is there or lies inside one that is."""
        if self.translate(tree) == tree:
            staged = self.root / name
            link_tree(tree, staged, leave_out=leave_out)
            self.moved[tree] = staged
        return self.translate(tree)

    @property
    def python(self) -> Path:
        """The interpreter that runs there; beside it lie the installed commands."""
        return self.translate(Path(sys.prefix)) / "bin" / Path(sys.executable).name


@contextlib.contextmanager
def staged(user: OsUser, needs: Iterable[Path] = (), *, keep: bool = False) -> Iterator[Stage]:
    """Where `user` can run this interpreter, this package and the programs in `needs`; removed unless `keep`.

    `needs` are files and directories; of a `bin` directory the installation around it is meant.
    """
    stage = Stage(Path(tempfile.mkdtemp(prefix="pgr-", dir=_base_directory(user))), user)
    try:
        stage.root.chmod(0o755)
        stage.temporary.mkdir(mode=0o700)
        os.chown(stage.temporary, user.uid, user.gid)
        if os.geteuid() == user.uid:  # what we run and see is in reach
            yield stage
            return
        _stage_runtime(stage)
        for number, need in enumerate(needs):
            tree = need.parent if need.name == "bin" else need
            if unreachable(user, [tree]):
                stage.add(tree, f"need-{number}")
        yield stage
    finally:
        if not keep:
            shutil.rmtree(stage.root, ignore_errors=True)


def environment_for(stage: Stage, inherited: dict[str, str]) -> dict[str, str]:
    """The caller's environment without what belongs to root's own home and desktop."""
    dropped = ("XDG_", "SUDO_", "PYENV_", "PIP_", "VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "MAKE", "MFLAGS")
    kept = {name: value for name, value in inherited.items() if not name.startswith(dropped)}
    home = str(stage.temporary)
    ours = {"HOME": home, "TMPDIR": home, "USER": stage.user.name, "LOGNAME": stage.user.name, "STAGE": str(stage.root)}
    ours["PATH"] = f"{stage.python.parent}:{kept.get('PATH', os.defpath)}"
    package = Path(pgrecall.__file__).parent.parent
    if not package.is_relative_to(sys.prefix):
        ours["PYTHONPATH"] = str(stage.translate(package / "pgrecall").parent)
    base_lib = Path(sys.base_prefix) / "lib"
    if stage.translate(base_lib) != base_lib:  # an interpreter built with a shared library names its old place
        ours["LD_LIBRARY_PATH"] = str(stage.translate(base_lib))
    return {**kept, **ours}


def link_tree(source: Path, destination: Path, *, leave_out: Sequence[str] = ()) -> None:
    """Make destination a tree of hard links to source's files, readable by everyone.

    A file is copied instead where a link would not do: another file system, modes that keep others out, or that let
    others write. Symbolic links stay as they are.
    """
    for place, directories, files in os.walk(source):
        directories[:] = [name for name in directories if name not in leave_out]
        target = destination / Path(place).relative_to(source)
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
        target.chmod(0o755)
        for name in files + [each for each in directories if (Path(place) / each).is_symlink()]:
            _link_file(Path(place) / name, target / name)


def _link_file(source: Path, destination: Path) -> None:
    found = source.lstat()
    mode = found.st_mode
    if stat.S_ISLNK(mode):
        destination.symlink_to(source.readlink())
        return
    if not stat.S_ISREG(mode):
        return
    wanted = 0o755 if mode & stat.S_IXUSR else 0o644
    if stat.S_IMODE(mode) & 0o7 == wanted & 0o7:
        with contextlib.suppress(OSError):
            destination.hardlink_to(source)
            return
    shutil.copyfile(source, destination)
    destination.chmod(wanted)
    os.utime(destination, ns=(found.st_atime_ns, found.st_mtime_ns))  # else compiled modules count as stale


def _stage_runtime(stage: Stage) -> None:
    """The base interpreter, the virtual environment and the package: each only if the user cannot read it."""
    base, prefix = Path(sys.base_prefix), Path(sys.prefix)
    standard_library = Path(sysconfig.get_path("stdlib"))
    interpreter = Path(sys.executable).resolve()
    base_parts = [
        interpreter,
        standard_library / "os.py",
        standard_library / "encodings",
        standard_library / "lib-dynload",
    ]
    base_moved = bool(unreachable(stage.user, base_parts))
    if base_moved:
        stage.add(base, "python", leave_out=("site-packages",) if prefix != base else ())
    if prefix != base and (base_moved or unreachable(stage.user, [prefix])):
        stage.add(prefix, "venv")
        _settle_venv(stage, prefix, interpreter)
    package = Path(pgrecall.__file__).parent
    if stage.translate(package) == package and unreachable(stage.user, [package]):
        stage.add(package, "package/pgrecall")


def _settle_venv(stage: Stage, prefix: Path, interpreter: Path) -> None:
    """A virtual environment knows its place in its scripts, its pyvenv.cfg and its links: write the new place."""
    bin_directory = stage.translate(prefix) / "bin"
    for script in bin_directory.iterdir():
        if script.is_symlink():
            if script.name.startswith("python") and script.readlink().is_absolute():
                script.unlink()
                script.symlink_to(stage.translate(interpreter))
        elif script.is_file() and script.read_bytes().startswith(b"#!" + os.fsencode(prefix)):
            text = script.read_bytes().replace(os.fsencode(prefix), os.fsencode(stage.translate(prefix)), 1)
            script.unlink()  # a hard link: never write through it
            script.write_bytes(text)
            script.chmod(0o755)
    config = stage.translate(prefix) / "pyvenv.cfg"
    lines = config.read_text(encoding="utf-8").splitlines()
    config.unlink()
    home = stage.translate(interpreter).parent
    settled = [f"home = {home}" if line.split("=")[0].strip() == "home" else line for line in lines]
    config.write_text("\n".join(settled) + "\n", encoding="utf-8")
    config.chmod(0o644)


def _base_directory(user: OsUser) -> Path:
    """A temporary directory that the user can enter, where programs may run."""
    tried: list[str] = []
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        tried.append(base)
        if not Path(base).is_dir() or unreachable(user, [Path(base)], whole=False):
            continue
        if not os.statvfs(base).f_flag & os.ST_NOEXEC:
            return Path(base)
    raise Refused(
        f"user {user.name} can run programs in none of {', '.join(tried)}",
        hint="Set TMPDIR to a directory that every user may enter.",
    )
