"""Settings: what is read, from where, and how a mistake is told."""

import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.config import find_config, load_settings
from pgrecall.config_source import read_file
from pgrecall.errors import ConfigInvalid, UsageError

GOOD = """\
[repository]
url = "/srv/backup"

[defaults]
parallel = 4

[clusters.main]
pgdata = "/var/lib/postgresql/17/main"
fetch_patience = "1h30m"

[clusters.team-a]
dsn = "service=team"
parallel = 1
key_file = "team.key"

[notify]
on_failure = ["https://alerts.example/hook", "mail -s failed dba@example.org"]
heartbeat = "https://hc.example/ping/1"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pgrecall.toml"
    path.write_text(GOOD)
    return path


def problem(path: Path, text: str, **environ: str) -> ConfigInvalid:
    path.write_text(text)
    with pytest.raises(ConfigInvalid) as caught:
        load_settings(path, environ=environ)
    return caught.value


def test_settings_are_typed_and_defaults_hold_where_a_cluster_says_nothing(config: Path) -> None:
    settings = load_settings(config, environ={})
    main, team = settings.select()
    assert main.pgdata == Path("/var/lib/postgresql/17/main")
    assert (main.parallel, team.parallel) == (4, 1)
    assert main.fetch_patience == timedelta(minutes=90)
    assert main.archive_wait == timedelta(minutes=5)
    assert settings.repository(main.repository).url == "/srv/backup"
    assert settings.notify.heartbeat == ("https://hc.example/ping/1",)


def test_relative_paths_are_relative_to_the_file_and_not_to_where_one_stands(config: Path) -> None:
    settings = load_settings(config, environ={})
    assert settings.key_file(settings.cluster(["team-a"])) == config.parent / "team.key"
    assert settings.key_file(settings.cluster(["main"])) == config.parent / "keys/main.key"


def test_an_unknown_setting_is_named_with_file_line_and_the_likely_name(config: Path) -> None:
    error = problem(config, GOOD.replace("pgdata =", "pgdatta ="))
    assert error.message == f"{config}:8: clusters.main.pgdatta is no setting"
    assert error.hint == "did you mean pgdata?"


def test_all_problems_are_told_at_once(config: Path) -> None:
    error = problem(
        config, 'bananas = 1\n[repository]\nurl = 5\n[clusters.main]\nparallel = "two"\ncheckpoint = "quick"\n'
    )
    lines = error.message.splitlines()
    assert lines[0] == "4 problems in the configuration"
    assert [line.split(": ")[0] for line in lines[1:]] == [f"{config}:{number}" for number in (1, 3, 5, 6)]


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        ('keep = "30d"', "later version"),
        ('jobs = { full = "sun 02:00" }', "parallel"),
        ('password = "x"', "dsn_file"),
        ('dsn = "host=db1 password=hunter2"', "dsn_file"),
        ('dsn = "postgresql://me:hunter2@db1/x"', "dsn_file"),
        ("fetch_patience = 10", "10s"),
    ],
)
def test_what_this_version_must_not_accept_is_refused_with_its_cure(config: Path, line: str, cure: str) -> None:
    error = problem(config, f"[clusters.main]\n{line}\n")
    assert cure in (error.hint or "")
    assert "hunter2" not in error.message
    assert error.message.startswith(f"{config}:2:")


def test_text_that_is_not_toml_is_named_with_its_line(config: Path) -> None:
    error = problem(config, "[repository]\nurl = /srv/backup\n")
    assert error.message.startswith(f"{config}:2: ")


def test_a_notification_scheme_that_we_do_not_speak_is_refused(config: Path) -> None:
    assert "mailto" in problem(config, '[notify]\non_failure = "mailto:dba@example.org"').message


def test_a_cluster_that_names_no_known_repository_is_refused(config: Path) -> None:
    text = '[repositories.a]\nurl = "/a"\n[clusters.main]\nrepository = "b"\n'
    assert problem(config, text).message == f"{config}:4: clusters.main: no repository is called 'b'"


def test_variables_of_the_environment_win_and_find_names_whatever_their_dashes(config: Path) -> None:
    environ = {
        "PGRECALL_CLUSTERS__TEAM_A__PARALLEL": "8",
        "PGRECALL_CLUSTERS__NEW__PGDATA": "/new",
        "PGRECALL_NOTIFY__ON_SUCCESS": '["true", "https://x.example/"]',
        "PGRECALL_STATE_DIR": "/state",
    }
    settings = load_settings(config, environ=environ)
    assert settings.cluster(["team-a"]).parallel == 8
    assert settings.cluster(["new"]).pgdata == Path("/new")
    assert settings.notify.on_success == ("true", "https://x.example/")
    assert settings.state_directory("main") == Path("/state/main")
    assert (
        settings.source.where(("clusters", "team-a", "parallel")) == "environment PGRECALL_CLUSTERS__TEAM_A__PARALLEL"
    )


def test_a_wrong_variable_is_named(config: Path) -> None:
    error = problem(config, GOOD, PGRECALL_CLUSTERS__MAIN__PARALEL="3")
    assert error.message.startswith("environment PGRECALL_CLUSTERS__MAIN__PARALEL: ")
    assert error.hint == "did you mean parallel?"


def test_repo_names_a_configured_repository_its_place_or_another_place(config: Path) -> None:
    for typed, name in (("default", "default"), ("/srv/backup/", "default"), ("file:///srv/backup", "default")):
        assert load_settings(config, environ={}, repository=typed).repository().name == name
    other = load_settings(config, environ={"PGRECALL_REPOSITORY": "/elsewhere"})
    assert other.repository().url == "/elsewhere"
    assert [each.name for each in other.select()] == ["main", "team-a"]


def test_a_writing_verb_refuses_to_guess_between_clusters(config: Path) -> None:
    settings = load_settings(config, environ={})
    with pytest.raises(UsageError, match=r"which cluster\? There are main, team-a"):
        settings.cluster()
    assert settings.cluster(["ma*"]).name == "main"
    with pytest.raises(UsageError, match="no cluster is called 'erp'"):
        settings.select(["erp"])


def test_without_any_configuration_the_error_says_how_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={"HOME": str(tmp_path)})
    if settings.path is None:
        with pytest.raises(ConfigInvalid) as caught:
            settings.cluster()
        assert "pgrecall init" in (caught.value.hint or "")


def test_the_file_is_searched_in_the_documented_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    (home / ".config/pgrecall").mkdir(parents=True)
    (home / ".config/pgrecall/pgrecall.toml").write_text("")
    environ = {"HOME": str(home)}
    assert find_config(None, environ) == home / ".config/pgrecall/pgrecall.toml"
    (tmp_path / "pgrecall.toml").write_text("")
    assert find_config(None, environ) == tmp_path / "pgrecall.toml"
    assert find_config(None, environ | {"PGRECALL_CONFIG": "/x.toml"}) == Path("/x.toml")
    assert find_config(Path("y.toml"), environ | {"PGRECALL_CONFIG": "/x.toml"}) == tmp_path / "y.toml"


def test_secrets_come_from_file_variable_or_command(config: Path) -> None:
    secret = config.parent / "dsn"
    secret.write_text("host=db1\n")
    for line in ('dsn_file = "dsn"', 'dsn_env = "ERP_DSN"', 'dsn_command = "echo host=db1"'):
        config.write_text(f"[clusters.erp]\n{line}\n")
        assert load_settings(config, environ={}).cluster().connection_string({"ERP_DSN": "host=db1"}) == "host=db1"
    config.write_text('[clusters.erp]\ndsn_command = "echo no >&2; exit 3"\n')
    with pytest.raises(ConfigInvalid, match="exit status 3: no"):
        load_settings(config, environ={}).cluster().connection_string({})


def test_lines_are_found_in_every_form_of_toml(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        '# comment\na = """\n[not.a.table]\nb = 1\n"""\n"odd key".x = \'it\'\'s\'\n'.replace("''s", "s")
        + 'list = [\n  { one = 1 }, # }\n  { two = "]" },\n]\n[[many]]\nn = 1\n[[many]]\nn = 2\n[ t . "u" ]\n'
        + "last = 2026-11-20 01:02:03\n"
    )
    lines = read_file(path).lines
    assert lines[("a",)] == 2
    assert lines[("odd key", "x")] == 6
    assert (lines[("list", "0", "one")], lines[("list", "1", "two")]) == (8, 9)
    assert (lines[("many", "0", "n")], lines[("many", "1", "n")]) == (12, 14)
    assert lines[("t", "u", "last")] == 16


@given(st.text(alphabet="ab=[]{}\"'\\#.,\n 1", max_size=60))
def test_finding_lines_never_fails_on_what_tomllib_accepts(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8")
    read_file(path)


def test_reading_settings_imports_nothing_heavy() -> None:
    """PostgreSQL waits for `wal push`: the configuration must cost milliseconds."""
    program = "import sys, pgrecall.config; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"pydantic", "numpy", "psycopg", "rich", "click", "asyncio"} & set(done.stdout.split())
