"""Run pytest as a user that PostgreSQL accepts: as we are, or, started as root, as an unprivileged user on a stage.

Arguments go to pytest; its output and exit status come back. Run by `make test` with the virtual environment's Python.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pgrecall.postgres.osuser import run_as, terminable
from pgrecall.postgres.staging import Stage, environment_for, staged
from pgrecall.postgres.users import find_user, is_root

ROOT = Path(__file__).resolve().parent.parent
ROOT_TESTS = "tests/root"
NOTHING_COLLECTED = 5  # pytest's exit status
PYTEST = ["-m", "pytest", "-p", "no:cacheprovider"]


def main(arguments: list[str]) -> int:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if not is_root():
        return subprocess.run([sys.executable, *PYTEST, *arguments], cwd=ROOT, env=environment, check=False).returncode
    status = run_root_tests(arguments, environment)
    if ROOT_TESTS in " ".join(arguments):
        return status
    user = find_user(os.environ.get("TEST_USER"))
    sys.stderr.write(f"PostgreSQL refuses root: the tests run as {user.name}.\n")
    sys.path.insert(0, str(ROOT))
    from tests.support.installed import SIDE_BINDIRS, side_bindirs

    bindirs = side_bindirs()
    with terminable(), staged(user, bindirs) as stage:
        environment[SIDE_BINDIRS] = ":".join(str(stage.translate(path)) for path in bindirs)
        project = copy_project(stage)
        argv = [str(stage.python), *PYTEST, f"--ignore={ROOT_TESTS}", *arguments]
        return run_as(user, argv, environment_for(stage, environment), directory=project) or status


def run_root_tests(arguments: list[str], environment: dict[str, str]) -> int:
    """The few that only root can try, first, so that the closing line of all others comes last."""
    named = [text for text in arguments if text.startswith("tests/")]
    if named and not any(text.startswith(ROOT_TESTS) for text in named):
        return 0
    argv = [sys.executable, *PYTEST, *arguments, *([] if named else [ROOT_TESTS]), "-n", "0"]
    status = subprocess.run(argv, cwd=ROOT, env=environment, check=False).returncode
    return 0 if status == NOTHING_COLLECTED else status


def copy_project(stage: Stage) -> Path:
    """The checkout's files, changed ones included, as a tree of the user's own."""
    project = stage.root / "project"
    for name in project_files():
        target = project / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    for path in [project, *project.rglob("*")]:
        os.chown(path, stage.user.uid, stage.user.gid, follow_symlinks=False)
    return project


def project_files() -> list[str]:
    """What git knows or would add; of a checkout without git everything but what we make ourselves."""
    listing = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git") and (ROOT / ".git").exists():
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
        return [name for name in done.stdout.split("\0") if name and os.path.lexists(ROOT / name)]
    left_out = {".venv", ".git", "build"}
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if not path.is_dir())
    return [str(path) for path in found if not left_out.intersection(path.parts)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
