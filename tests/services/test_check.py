"""`pgrecall check` and `pgrecall status`: what is broken is found, named and given its cure."""

from pathlib import Path
from typing import Any

import pytest

from pgrecall.postgres.scratch import ScratchServer
from tests.conftest import NewServer
from tests.support.program import Program, protect

pytestmark = pytest.mark.newest


@pytest.fixture
def program(tmp_path: Path) -> Program:
    home = tmp_path / "home"
    home.mkdir()
    return Program(home)


def levels(data: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in data["findings"]:
        found.setdefault(each["level"], []).append(f"{each['topic']}: {each['what']}")
    return found


def test_a_sound_cluster_has_no_danger_and_the_exit_status_tells_warnings(
    program: Program, new_server: NewServer
) -> None:
    protect(program, new_server(settings={"fsync": "on"}))
    found = levels(program.json("check", "--wait", "30", status=3))
    assert "DANGER" not in found
    assert any(each.startswith("backup: no complete backup") for each in found["WARN"])
    assert program("check", "--wait", "30") == 3
    assert "→ pgrecall backup -c main" in program.result


def test_archiving_that_fails_is_shown_with_what_the_archiver_said(program: Program, new_server: NewServer) -> None:
    server = new_server()
    protect(program, server)
    (program.home / "repo").rename(program.home / "moved")
    (program.home / "repo").mkdir()
    found = levels(program.json("check", status=1))
    assert any("key" in each and "no repository" in each for each in found["DANGER"])
    (program.home / "repo").rmdir()
    (program.home / "moved").rename(program.home / "repo")
    set_archive_command(server, "sh -c ''exit 3'' pgrecall wal push %p")
    dangers = levels(program.json("check", "--wait", "4", status=1))["DANGER"]
    assert any("did not arrive within 4 s" in each and "failed" in each for each in dangers)
    status = program.json("status", status=1)["clusters"][0]
    assert status["level"] == "FAIL" and status["archiver"]["failed_count"] > 0


def test_an_archive_command_that_cannot_be_started_is_named(program: Program, new_server: NewServer) -> None:
    server = new_server()
    protect(program, server)
    set_archive_command(server, "/nowhere/pgrecall wal push %p")
    dangers = levels(program.json("check", "--wait", "2", status=1))["DANGER"]
    assert any("did not arrive within 2 s" in each and "cannot be started" in each for each in dangers)
    assert any("cannot be run by the server" in each and "/nowhere" in each for each in dangers)


def set_archive_command(server: ScratchServer, command: str) -> None:
    server.execute(f"alter system set archive_command = '{command}'", "select pg_reload_conf()")


def test_topics_are_chosen_and_unknown_ones_refused(program: Program, new_server: NewServer) -> None:
    protect(program, new_server())
    topics = {each["topic"] for each in program.json("check", "--only", "clock,config")["findings"]}
    assert topics == {"clock", "config"}
    assert program("check", "--only", "weather") == 2


def test_a_readable_key_file_is_a_danger(program: Program, new_server: NewServer) -> None:
    told = protect(program, new_server())
    Path(told["key_file"]).chmod(0o644)
    assert program("doctor", "--only", "key") == 1
    assert "chmod 600" in program.result


def test_config_shows_every_value_with_its_origin_and_touches_nothing(program: Program) -> None:
    program.config.parent.mkdir(parents=True)
    program.config.write_text('[repository]\nurl = "/none"\n[defaults]\nparallel = 3\n[clusters.main]\npgdata = "/"\n')
    data = program.json("check", "--config", PGRECALL_CLUSTERS__MAIN__COMPRESSION_LEVEL="9")
    values = {each["name"]: (each["value"], each["origin"]) for each in data["settings"]}
    assert values["repository.url"] == ("/none", f"{program.config}:2")
    assert values["clusters.main.parallel"] == (3, f"{program.config}:4")
    assert values["clusters.main.compression_level"] == (9, "environment PGRECALL_CLUSTERS__MAIN__COMPRESSION_LEVEL")
    assert values["clusters.main.checkpoint"] == ("fast", "default")
    assert program("check", "--config", program.config) == 1


def test_a_backup_is_listed_shown_and_opens_the_recovery_window(program: Program, new_server: NewServer) -> None:
    server = new_server()
    protect(program, server)
    assert program("backup") == 0, program.said
    server.execute("create table t (x int)", "select pg_switch_wal()")
    backups = program.json("list")["clusters"][0]["backups"]
    assert [each["state"] for each in backups] == ["complete"]
    shown = program.json("show", "latest")
    assert shown["backup"] == backups[0] and shown["backup"]["authentic"]
    assert program.json("show", f"main/{backups[0]['label'][:12]}")["backup"] == backups[0]
    status = program.json("status")["clusters"][0]
    window = status["branches"][0]["windows"][0]
    assert status["level"] == "OK" and window["backups"] == [backups[0]["label"]]
    assert program("list", TZ="Europe/Berlin") == 0 and "times in Europe/Berlin (+0" in program.result
    assert program("status", "--wal") == 0 and "timeline 1" in program.result
    assert program("show", "2019") == 5 and "[backup-not-found]" in program.said
