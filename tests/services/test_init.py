"""`pgrecall init` on real servers: what it makes, keeps, refuses and proves."""

import json
import os
import shlex
import stat
from pathlib import Path

import pytest

from pgrecall.config import load_settings
from pgrecall.postgres.users import is_root
from pgrecall.repository.hostkey import read_host_key
from tests.conftest import NewServer
from tests.support.program import Program, protect

pytestmark = pytest.mark.newest


@pytest.fixture
def program(tmp_path: Path) -> Program:
    home = tmp_path / "home"
    home.mkdir()
    return Program(home)


def test_init_then_archiving_works_after_the_restart_it_asks_for(program: Program, new_server: NewServer) -> None:
    server = new_server()
    told = protect(program, server)
    assert told["created"] == ["repository", "cluster", "key", "configuration"]
    assert told["restart_needed"] == ["archive_mode"] and told["applied"]
    assert server.value("show archive_command") == told["archive_command"]
    words = shlex.split(told["archive_command"])
    assert words[-5:] == ["wal", "push", "-c", "main", "%p"] and Path(words[0]).is_absolute()
    found = program.json("check", "--only", "archive", "--wait", "30")["findings"]
    assert [each["level"] for each in found] == ["OK"]
    assert "arrived after" in found[0]["what"]


def test_secrets_lie_beside_the_configuration_readable_by_their_owner_alone(
    program: Program, new_server: NewServer
) -> None:
    told = protect(program, new_server())
    for name in ("identity_file", "key_file"):
        assert stat.S_IMODE(Path(told[name]).stat().st_mode) == 0o600
    identity = Path(told["identity_file"]).read_text().splitlines()[1].encode()
    assert identity.startswith(b"AGE-SECRET-KEY-1")
    stored = [path for path in (program.home / "repo").rglob("*") if path.is_file()]
    assert stored and not any(identity in path.read_bytes() for path in stored)
    assert told["passphrase"] not in program.config.read_text()


def test_identity_and_passphrase_each_open_the_backups_without_this_hosts_key(
    program: Program, new_server: NewServer, tmp_path: Path
) -> None:
    told = protect(program, new_server())
    words = tmp_path / "words"
    words.write_text(told["passphrase"])
    elsewhere = Program(tmp_path / "elsewhere")
    elsewhere.home.mkdir()
    for secret in (told["identity_file"], words):
        found = elsewhere.json("list", "--repo", program.home / "repo", "--identity-file", secret, PGRECALL_CONFIG="")
        assert [each["cluster"] for each in found["clusters"]] == ["main"]
    assert elsewhere("list", "--repo", program.home / "repo", PGRECALL_CONFIG="") == 8
    words.write_text("3vxe-c92s-vdmn-kjrs-xswh-791d")
    assert elsewhere("list", "--repo", program.home / "repo", "--identity-file", words, PGRECALL_CONFIG="") == 8


def test_repeating_init_changes_nothing(program: Program, new_server: NewServer) -> None:
    server = new_server()
    told = protect(program, server)
    before = {path: path.read_bytes() for path in program.home.rglob("*") if path.is_file()}
    again = program.json("init", "--pgdata", server.pgdata, status=3)
    assert again["created"] == [] and again["passphrase"] is None and again["settings_sql"] == []
    assert again["archive_command"] == told["archive_command"]
    assert {path: path.read_bytes() for path in program.home.rglob("*") if path.is_file()} == before


def test_a_second_cluster_joins_the_repository_and_gets_a_section(program: Program, new_server: NewServer) -> None:
    protect(program, new_server())
    program.config.write_text(program.config.read_text() + "# mine\n")
    second = new_server("second", own_identity=True)
    told = program.json("init", "-c", "erp", "--pgdata", second.pgdata, status=3)
    assert told["created"] == ["cluster", "key", "configuration"]
    text = program.config.read_text()
    assert "# mine" in text and "[clusters.erp]" in text
    settings = load_settings(program.config, environ={})
    keys = [read_host_key(settings.key_file(each)) for each in settings.select()]
    assert keys[0].cluster != keys[1].cluster and keys[0].repository == keys[1].repository


def test_another_cluster_under_a_taken_name_is_refused(program: Program, new_server: NewServer, tmp_path: Path) -> None:
    told = protect(program, new_server())
    stranger = new_server("stranger", own_identity=True)
    assert program("init", "-c", "main", "--pgdata", stranger.pgdata) == 4
    other_host = Program(tmp_path / "host2")
    other_host.home.mkdir()
    secret = ["--identity-file", told["identity_file"]]
    assert other_host("init", "--repo", program.home / "repo", "--pgdata", stranger.pgdata, *secret) == 4
    assert "[wrong-cluster]" in other_host.said
    assert not list(other_host.home.rglob("*.key"))


def test_after_pg_upgrade_the_cluster_goes_on_under_its_name(program: Program, new_server: NewServer) -> None:
    before = new_server()
    protect(program, before)
    after = new_server("upgraded", own_identity=True)  # pg_upgrade makes a directory with an identifier of its own
    assert program("init", "-c", "main", "--pgdata", after.pgdata, "--new-identity") == 4
    assert "correct its pgdata" in program.said
    program.config.write_text(program.config.read_text().replace(str(before.pgdata), str(after.pgdata)))
    assert program("init", "-c", "main") == 4
    assert "[wrong-cluster]" in program.said and "pgrecall init -c main --new-identity" in program.said
    assert program("backup", "-c", "main") == 4
    assert "pgrecall init -c main --new-identity" in program.said
    told = program.json("init", "-c", "main", "--new-identity", "--apply", status=3)
    assert told["created"] == ["identity"]
    after.restart()
    assert program.json("init", "-c", "main", "--new-identity", status=3)["created"] == []
    assert program.json("backup", "-c", "main")["state"] == "complete"


def test_a_foreign_archive_command_stays(program: Program, new_server: NewServer) -> None:
    foreign = "cp %p /archive/%f"
    server = new_server(settings={"archive_mode": "on", "archive_command": foreign, "archive_timeout": "60"})
    told = program.json("init", "--repo", program.home / "repo", "--pgdata", server.pgdata, "--apply", status=3)
    assert told["settings_sql"] == []
    assert any(each["level"] == "DANGER" and foreign in each["why"] for each in told["findings"])
    assert server.value("show archive_command") == foreign


def test_print_sql_and_dry_run_write_nothing(program: Program, new_server: NewServer) -> None:
    server = new_server()
    assert program("init", "--repo", program.home / "repo", "--pgdata", server.pgdata, "--print", "sql") == 0
    assert "ALTER SYSTEM SET archive_command" in program.result and "GRANT" in program.result
    assert program("init", "--repo", program.home / "repo", "--pgdata", server.pgdata, "--dry-run") == 0
    assert "Nothing was written" in program.result
    assert list(program.home.iterdir()) == []


def test_odd_paths_survive_shell_and_sql(tmp_path: Path, new_server: NewServer) -> None:
    program = Program(tmp_path / 'it\'s a "100 %" home')
    program.home.mkdir()
    server = new_server()
    protect(program, server, "--unsealed")
    assert str(program.config).replace("%", "%%") in shlex.split(server.value("show archive_command"))
    assert program.json("check", "--only", "archive", "--wait", "30")["findings"][0]["level"] == "OK"


def test_an_unsealed_repository_has_no_secrets_to_lose(program: Program, new_server: NewServer) -> None:
    told = protect(program, new_server(), "--unsealed")
    assert (told["sealed"], told["passphrase"], told["identity_file"]) == (False, None, None)


def test_a_server_that_is_down_is_told_and_the_rest_is_made(program: Program, new_server: NewServer) -> None:
    server = new_server(start=False)
    status = program("init", "--repo", program.home / "repo", "--pgdata", server.pgdata)
    assert status == 7
    assert "recovery passphrase" in program.result and "Not finished" in program.result
    server.start()
    again = program.json("init", "--pgdata", server.pgdata, status=3)
    assert again["created"] == [] and again["problem"] == {}


def test_a_killed_init_loses_no_key(program: Program, new_server: NewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server = new_server()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pgrecall.services.init.run._write_key", killed)
        assert program("init", "--repo", program.home / "repo", "--pgdata", server.pgdata) == 130
    told = program.json("init", "--repo", program.home / "repo", "--pgdata", server.pgdata, status=3)
    assert told["created"] == ["key", "configuration"]
    assert program.json("check", "--only", "key", status=3)["findings"]


@pytest.mark.skipif(is_root(), reason="root may read everything")
def test_files_of_somebody_else_are_refused(program: Program, tmp_path: Path) -> None:
    assert program("init", "--repo", program.home / "repo", "--pgdata", "/root") in (4, 5)
    assert program("init", "--repo", program.home / "repo", "--pgdata", tmp_path) == 5
    assert "no data directory" in program.said


def test_without_a_repository_the_line_that_makes_one_is_named(program: Program, new_server: NewServer) -> None:
    server = new_server()
    program.config.parent.mkdir(parents=True)
    text = f'[repository]\nurl = "{program.home}/none"\n[clusters.main]\npgdata = "{server.pgdata}"\n'
    program.config.write_text(text)
    assert program("list") == 5
    assert f"pgrecall init --repo {program.home}/none --pgdata {server.pgdata}" in program.said


def test_json_is_one_document_per_call(program: Program, new_server: NewServer) -> None:
    protect(program, new_server())
    for argv in (["list"], ["status"], ["check", "--config"], ["show", "latest"]):
        program(*argv, "--json")
        assert json.loads(program.result)["schema"].startswith("pgrecall.")
    assert os.environ.get("PGRECALL_CONFIG") is None
