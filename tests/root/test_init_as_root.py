"""Started as root, init gives the server's user what it needs, and keeps from it what it must not have."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgrecall
from pgrecall.errors import Refused, StorageDenied
from pgrecall.postgres.binaries import find_binaries, wheel_bindirs
from pgrecall.postgres.scratch import initdb
from pgrecall.postgres.users import find_user, owner_of, refuse_unreachable_runtime, unreachable
from pgrecall.services.impersonate import as_user

NOBODY = find_user()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can enter."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def pgdata(place: Path) -> Path:
    """A data directory of an unprivileged user's."""
    bindir = wheel_bindirs()[-1]
    hidden = unreachable(NOBODY, [bindir, Path(sys.executable).resolve(), Path(pgrecall.__file__).parent])
    if hidden:
        pytest.skip(f"{NOBODY.name} cannot reach {hidden[0]}")
    home = place / "home"
    home.mkdir()
    os.chown(home, NOBODY.uid, NOBODY.gid)
    as_user(NOBODY, lambda: initdb(find_binaries(bindir), home / "pg"))
    return home / "pg"


def test_the_servers_user_gets_key_state_and_repository_and_root_keeps_the_identity(place: Path, pgdata: Path) -> None:
    config = place / "etc/pgrecall.toml"
    program = [sys.executable, "-m", "pgrecall", "--config", str(config)]
    environ = os.environ | {"PGRECALL_STATE_DIR": str(place / "state"), "HOME": str(place)}
    init = [*program, "init", "--repo", str(place / "repo"), "--pgdata", str(pgdata), "--json"]
    done = subprocess.run(init, env=environ, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)["data"]
    assert done.returncode == 7 and told["problem"]["code"] == "server-unreachable", done.stdout + done.stderr
    owned = {name: owner_of(path).uid for name, path in {
        "key": Path(told["key_file"]), "identity": Path(told["identity_file"]), "state": place / "state/main",
        "config": config, "repository": place / "repo",
    }.items()}  # fmt: skip
    theirs = NOBODY.uid
    assert owned == {"key": theirs, "identity": 0, "state": theirs, "config": 0, "repository": theirs}
    assert {owner_of(path).uid for path in (place / "repo").rglob("*")} == {theirs}
    assert stat.S_IMODE(Path(told["identity_file"]).stat().st_mode) == 0o600
    listing = subprocess.run([*program, "list", "--json"], env=environ, capture_output=True, text=True, check=False)
    assert listing.returncode == 0, listing.stdout


def test_results_and_errors_come_back_from_another_user() -> None:
    assert as_user(NOBODY, os.geteuid) == NOBODY.uid
    assert os.geteuid() == 0

    def denied() -> None:
        raise StorageDenied("403", hint="ask", place="x")

    with pytest.raises(StorageDenied) as caught:
        as_user(NOBODY, denied)
    assert (caught.value.message, caught.value.hint, caught.value.facts) == ("403", "ask", {"place": "x"})


def test_an_interpreter_that_the_servers_user_cannot_run_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hidden = tmp_path / "root's own" / "python3"
    hidden.parent.mkdir(mode=0o700)
    hidden.write_text("#!/bin/sh\n")
    hidden.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hidden))
    with pytest.raises(Refused, match=r"cannot read .*python3, from where we run"):
        refuse_unreachable_runtime(NOBODY)
