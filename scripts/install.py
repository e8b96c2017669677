"""Install pgrecall into the virtual environment that runs this, with the packages wanted; nothing to do, nothing done.

`demo`: what the demo needs. `dev`: exactly what requirements-dev.lock says, too. Both are remembered by a hash of the
files that decide about them, in stamps inside the virtual environment.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-dev.lock"
STAMPS = Path(sys.prefix)
BUILD_FILES = [ROOT / name for name in ("pyproject.toml", "setup.py", "MANIFEST.in")]


def fingerprint(files: Iterable[Path], *more: str) -> str:
    digest = hashlib.sha256("\0".join(more).encode())
    for path in sorted(files):
        if path.is_file():
            digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def is_done(stamp: str, wanted: str) -> bool:
    path = STAMPS / stamp
    return path.exists() and path.read_text(encoding="utf-8") == wanted


def pip_install(message: str, *arguments: str) -> None:
    sys.stderr.write(f"{message}\n")
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [sys.executable, "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
        sys.exit("Installing failed; pip's words are above. Is the package index reachable?")


def install(wanted: str) -> None:
    sources = [path for path in (ROOT / "src").rglob("*") if path.suffix in {".py", ".c", ".h", ".typed"}]
    packages = fingerprint([LOCK], sys.version)
    code = fingerprint([*BUILD_FILES, *sources], sys.version, str(shutil.which("gcc") or shutil.which("cc")))
    locked = is_done("stamp-packages", packages)
    if wanted == "dev" and not locked:
        pip_install("Installing what pgrecall and its tests need (requirements-dev.lock)…", "-r", str(LOCK))
        (STAMPS / "stamp-packages").write_text(packages, encoding="utf-8")
        locked = True
    if is_done("stamp-code", code):
        return
    # setuptools would install what an earlier build left, modules that are gone included
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    if locked:
        offline = ["--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall"]
        pip_install("Installing pgrecall…", *offline, str(ROOT))
    else:
        pip_install("Installing pgrecall and PostgreSQL 16 and 18 for the demo…", f"{ROOT}[demo]")
    (STAMPS / "stamp-code").write_text(code, encoding="utf-8")


if __name__ == "__main__":
    install(sys.argv[1])
