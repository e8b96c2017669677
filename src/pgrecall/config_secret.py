"""Secrets come from a file, an environment variable or a command, never from the configuration itself."""

from collections.abc import Mapping
from pathlib import Path

from pgrecall.errors import ConfigInvalid


def read_secret(
    file: Path | None, variable: str | None, command: str | None, *, environ: Mapping[str, str], what: str
) -> str | None:
    """The secret's text, stripped; None when no source is given; ConfigInvalid when a source does not deliver."""
    if file is not None:
        text = read_secret_file(file, what=f"{what}_file")
    elif variable is not None:
        text = environ.get(variable, "")
        if not text:
            raise ConfigInvalid(
                f"{what}_env: the environment has no {variable}", hint=f"set {variable} where pgrecall runs"
            )
    elif command is not None:
        text = _run(command, what=f"{what}_command")
    else:
        return None
    return text.strip()


def read_secret_file(file: Path, *, what: str) -> str:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigInvalid(
            f"{what} {file} cannot be read: {reason}", hint="does it exist, and may this user read it?"
        ) from None
    if not text.strip():
        raise ConfigInvalid(f"{what} {file} is empty", hint="it should hold the secret, alone")
    return text


def _run(command: str, *, what: str) -> str:
    import subprocess

    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode != 0 or not done.stdout.strip():
        said = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ConfigInvalid(
            f"{what} failed with exit status {done.returncode}: {said}", hint="run it by hand as this user"
        )
    return done.stdout
