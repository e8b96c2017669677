"""Configuration that lay outside or pointed elsewhere is brought inside: the copy starts and touches only itself."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest

from pgrecall.postgres.conffile import ConfFile
from pgrecall.postgres.scratch import ScratchServer
from pgrecall.services.restore.configuration import Adapted, Inside, OutsideContent, adapt_configuration
from tests.conftest import NewServer, OpenServer
from tests.support.recovery import Protected

ORIGINAL = "/var/lib/postgresql/17/main"
ETC = "/etc/postgresql/17/main"


def adapt(
    inside: Mapping[str, str],
    outside: Mapping[tuple[str, str], str] | None = None,
    told: Mapping[str, str] | None = None,
) -> Adapted:
    """inside: by relative path; outside: by (setting, path)."""
    contents = {PurePosixPath(path): text.encode() for path, text in inside.items()}

    def names(directory: PurePosixPath) -> list[str]:
        return [path.name for path in contents if path.parent == directory]

    files = [
        OutsideContent(setting, PurePosixPath(path), text.encode()) for (setting, path), text in (outside or {}).items()
    ]
    return adapt_configuration(PurePosixPath(ORIGINAL), Inside(contents.get, names), files, told)


def text(adapted: Adapted, path: str) -> str:
    return adapted.files[PurePosixPath(path)].decode()


PLAIN = {"postgresql.conf": "port = 5433\n", "postgresql.auto.conf": "", "pg_hba.conf": "local all all trust\n"}


def test_a_configuration_that_lies_inside_is_left_byte_for_byte() -> None:
    inside = {**PLAIN, "postgresql.conf": "port = 5433\ninclude 'more.conf'\ninclude_dir 'conf.d'\n", "more.conf": "",
              "conf.d/1.conf": "work_mem = 4MB\n"}  # fmt: skip
    assert adapt(inside) == Adapted()


def test_debian_s_layout_becomes_a_directory_that_starts_alone() -> None:
    adapted = adapt(
        {"postgresql.auto.conf": "work_mem = '5MB'\n"},
        {
            ("config_file", f"{ETC}/postgresql.conf"): (
                f"data_directory = '{ORIGINAL}'\nhba_file = '{ETC}/pg_hba.conf'\nident_file = '{ETC}/pg_ident.conf'\n"
                "external_pid_file = '/var/run/postgresql/17-main.pid'\nport = 5433\ninclude_dir = 'conf.d'\n"
            ),
            ("hba_file", f"{ETC}/pg_hba.conf"): "local all all peer\n",
            ("ident_file", f"{ETC}/pg_ident.conf"): "# none\n",
            ("config_file", f"{ETC}/conf.d/20-b.conf"): "b.b = 2\n",
            ("config_file", f"{ETC}/conf.d/10-a.conf"): "include '/etc/more.conf'\n",
            ("config_file", "/etc/more.conf"): "c.c = 3\n",
        },
    )
    conf = ConfFile.parse(adapted.files[PurePosixPath("postgresql.conf")])
    for name in ("data_directory", "hba_file", "ident_file", "external_pid_file"):
        assert conf.find(name) is None
    assert conf.find("port") == b"5433"
    assert [line.value for line in conf.lines if line.is_include] == [
        b"pgrecall-config/01-10-a.conf",
        b"pgrecall-config/03-20-b.conf",
    ]
    assert "include '02-more.conf'" in text(adapted, "pgrecall-config/01-10-a.conf")
    assert text(adapted, "pgrecall-config/02-more.conf") == "c.c = 3\n"
    assert text(adapted, "pgrecall-config/03-20-b.conf") == "b.b = 2\n"
    assert text(adapted, "pg_hba.conf") == "local all all peer\n"
    assert text(adapted, "pg_ident.conf") == "# none\n"
    assert adapted.notes == []


def test_absolute_paths_into_the_original_become_relative() -> None:
    adapted = adapt({
        **PLAIN,
        "postgresql.conf": f"include '{ORIGINAL}/more.conf'\nlog_directory = '{ORIGINAL}/log'\n",
        "more.conf": f"ssl_key_file = '{ORIGINAL}/../main/server.key'\n",
        "postgresql.auto.conf": f"ssl_cert_file = '{ORIGINAL}/server.crt'\n",
    })  # fmt: skip
    assert "\ninclude 'more.conf'" in text(adapted, "postgresql.conf")
    assert "log_directory = 'log'" in text(adapted, "postgresql.conf")
    assert "ssl_cert_file = 'server.crt'" in text(adapted, "postgresql.auto.conf")


def test_an_include_that_is_not_in_the_backup_is_disabled_and_told() -> None:
    adapted = adapt({**PLAIN, "postgresql.conf": "include '/etc/lost.conf'\ninclude_if_exists '/etc/never.conf'\n"})
    assert ConfFile.parse(adapted.files[PurePosixPath("postgresql.conf")]).find("include") is None
    assert adapted.notes == ["include '/etc/lost.conf' is not in the backup; it is disabled in what is restored"]


def test_files_inside_that_the_original_did_not_read_are_kept_aside() -> None:
    adapted = adapt(
        {**PLAIN, "pg_hba.conf": "local all all reject\n"}, {("hba_file", "/etc/pg/hba.conf"): "local all all trust\n"}
    )
    assert text(adapted, "pg_hba.conf") == "local all all trust\n"
    assert text(adapted, "pgrecall-config/unused-pg_hba.conf") == "local all all reject\n"


def test_included_files_outside_are_not_taken_for_the_main_one() -> None:
    adapted = adapt(
        {
            **PLAIN,
            "postgresql.conf": "port = 1\ninclude '/etc/shared.conf'\n",
            "pg_hba.conf": "include /etc/hba.more\n",
        },
        {
            ("config_file", "/etc/shared.conf"): "work_mem = 1MB\n",
            ("hba_file", "/etc/hba.more"): "local all all trust\n",
        },
    )
    assert "port = 1\n" in text(adapted, "postgresql.conf")
    assert text(adapted, "pgrecall-config/01-shared.conf") == "work_mem = 1MB\n"
    assert "include 'pgrecall-config/02-hba.more'" in text(adapted, "pg_hba.conf").replace('"', "'")


def test_what_the_server_said_of_its_main_file_counts() -> None:
    outside = {("config_file", "/etc/a.conf"): "port = 1\n", ("config_file", "/etc/b.conf"): "port = 2\n"}
    adapted = adapt({**PLAIN}, outside, {"config_file": "/etc/b.conf"})
    assert text(adapted, "postgresql.conf") == "port = 2\n"


def test_a_backup_without_configuration_gets_one_that_lets_its_owner_in() -> None:
    adapted = adapt({"postgresql.auto.conf": ""})
    assert text(adapted, "pg_hba.conf") == "local all all peer\n"
    assert len(adapted.notes) == 2


@pytest.mark.parametrize("conf", ["include 'postgresql.conf'\n", "port = = 1\n"])
def test_a_configuration_that_no_server_takes_does_not_stop_the_restore(conf: str) -> None:
    adapt({**PLAIN, "postgresql.conf": conf})


def move_configuration(server: ScratchServer, etc: Path) -> None:
    """As Debian has it: everything outside, the server started with config_file on its command line."""
    (etc / "conf.d").mkdir(parents=True)
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        (server.pgdata / name).rename(etc / name)
    with (etc / "postgresql.conf").open("a") as conf:
        conf.write(f"data_directory = '{server.pgdata}'\nhba_file = '{etc}/pg_hba.conf'\n")
        conf.write(
            f"ident_file = '{etc}/pg_ident.conf'\nexternal_pid_file = '{etc}/main.pid'\ninclude_dir = 'conf.d'\n"
        )
        conf.write("archive_mode = on\narchive_command = '/bin/false'\nport = 6543\n")
    (etc / "conf.d" / "extra.conf").write_text("cluster_name = 'from outside'\n")
    server.settings["config_file"] = str(etc / "postgresql.conf")


def test_a_server_configured_outside_comes_back_as_a_directory_that_starts_plainly(
    new_server: NewServer, tmp_path: Path, open_server: OpenServer
) -> None:
    etc = tmp_path / "etc"
    protected = Protected.start(new_server, tmp_path / "home", before=lambda server: move_configuration(server, etc))
    protected.server.execute("create table t (n int)", "insert into t values (1)")
    protected.backup()
    pid = (etc / "main.pid").read_text()
    plan = protected.plan(tmp_path / "copy")
    assert plan.manifest.cluster.other["config_file"] == str(etc / "postgresql.conf")
    assert plan.manifest.cluster.other["ident_file"] == str(etc / "pg_ident.conf")
    done = protected.restore(plan)
    assert done.configured.warnings == []
    copy = open_server(tmp_path / "copy", isolated=False).start()
    copy.wait_promoted()
    assert copy.query("select n from t") == [(1,)]
    assert copy.value("show cluster_name") == "from outside"
    assert copy.value("show data_directory") == str(tmp_path / "copy")
    assert copy.value("show hba_file") == str(tmp_path / "copy/pg_hba.conf")
    assert copy.value("show archive_mode") == "off"
    assert (etc / "main.pid").read_text() == pid, "the copy wrote its pid over the original's"
