"""The process: grammar, streams, exit statuses, and that nothing a user types ends in a traceback."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from pgrecall.cli import main, verbs
from pgrecall.cli.invocation import Invocation
from pgrecall.cli.options import Verb, option, verb
from pgrecall.clock import ManualClock, SystemClock
from pgrecall.errors import ObjectDamaged, TargetUnreachable
from pgrecall.repository.repository import Repository
from pgrecall.storage.posix import PosixStorage

Behaviour = Callable[[Invocation], object]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Program:
    """Runs the program inside this process, with a verb `probe` that tests give a behaviour."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
        self.behaviour: Behaviour = lambda run: None
        self.environ = {"HOME": str(config.parent), "PGRECALL_CONFIG": str(config)}
        self.stdout, self.stderr = io.StringIO(), io.StringIO()

        @verb("probe", examples=["pgrecall probe --count 3"], writes=True)
        @option("--count", type=int, default=1, help="How many.")
        def command(run: Invocation, count: int) -> int | None:
            """Do what a test says."""
            status = self.behaviour(run)
            return status if isinstance(status, int) else None

        def get_command(table: verbs.VerbTable, ctx: click.Context, name: str) -> click.Command | None:
            return command if name in ("probe", "fetch") else command if name == "wal" else original(table, ctx, name)

        original = verbs.VerbTable.get_command
        monkeypatch.setattr(verbs.VerbTable, "get_command", get_command)

    def __call__(self, *argv: str) -> int:
        clock = ManualClock("2026-11-20T13:05:00Z")
        return main.run(list(argv), stdout=self.stdout, stderr=self.stderr, environ=self.environ, clock=clock)

    @property
    def said(self) -> str:
        return self.stderr.getvalue()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    config = tmp_path / "pgrecall.toml"
    config.write_text('[repository]\nurl = "/nowhere"\n[clusters.main]\npgdata = "/nowhere/pgdata"\n[clusters.erp]\n')
    return Program(monkeypatch, config)


def test_an_error_is_two_lines_with_the_code_last(program: Program) -> None:
    def fail(run: Invocation) -> None:
        raise TargetUnreachable("main cannot be recovered to noon", hint="--at 11:00", target="noon")

    program.behaviour = fail
    assert program("probe") == 5
    assert program.said == "error: main cannot be recovered to noon\n  → --at 11:00  [target-unreachable]\n"
    assert program.stdout.getvalue() == ""


def test_an_error_is_an_envelope_on_stdout_with_json(program: Program) -> None:
    def fail(run: Invocation) -> None:
        raise TargetUnreachable("no", hint="do", target="noon")

    program.behaviour = fail
    assert program("probe", "--json") == 5
    assert json.loads(program.stdout.getvalue()) == {
        "schema": "pgrecall.error/1",
        "code": "target-unreachable",
        "message": "no",
        "hint": "do",
        "facts": {"target": "noon"},
    }
    assert program.said == ""


def test_a_name_that_is_no_utf8_does_not_break_an_error(program: Program) -> None:
    def fail(run: Invocation) -> None:
        raise TargetUnreachable("cannot read a\udcff", hint="rename a\udcff", path="a\udcff")

    program.behaviour = fail
    assert program("probe", "--json") == 5
    assert program("probe") == 5
    told = (program.stdout.getvalue() + program.said).encode()
    assert b"\\udcff" in told and told.count(b"internal") == 0


@pytest.mark.parametrize("argv", [("--json", "probe"), ("probe", "--json")])
def test_global_options_stand_before_or_after_the_verb(program: Program, argv: tuple[str, ...]) -> None:
    program.behaviour = lambda run: run.emit("probe", 1, data={"bytes": 5}, text=lambda: ["no"])
    assert program(*argv) == 0
    assert json.loads(program.stdout.getvalue()) == {
        "schema": "pgrecall.probe/1",
        "at": "2026-11-20T13:05:00Z",
        "data": {"bytes": 5},
    }


def test_clusters_are_gathered_from_every_place_they_are_named_in(program: Program) -> None:
    chosen: list[str] = []
    program.behaviour = lambda run: chosen.extend(each.name for each in run.clusters())
    assert program("-c", "main", "probe", "--cluster", "e*") == 0
    assert chosen == ["main", "erp"]
    assert program("probe") == 0
    assert chosen[2:] == ["main", "erp"]
    program.environ["PGRECALL_CLUSTER"] = "erp"
    assert program("probe") == 0
    assert chosen[4:] == ["erp"]


def test_a_verb_that_writes_does_not_guess_the_cluster(program: Program) -> None:
    program.behaviour = lambda run: run.cluster()
    assert program("probe") == 2
    assert "main, erp" in program.said


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("lsit",), "Did you mean list?"),
        (("probe", "--cuont", "1"), "--count"),
        (("probe", "--count", "many"), "many"),
        (("probe", "extra"), "extra"),
        (("--config", "/no/such/file", "probe"), "/no/such/file does not exist"),
    ],
)
def test_what_cannot_be_understood_exits_2_in_two_lines(program: Program, argv: tuple[str, ...], text: str) -> None:
    program.behaviour = lambda run: run.settings()
    assert program(*argv) == 2
    assert text in program.said
    assert len(program.said.splitlines()) == 2


def test_usage_errors_are_json_too_even_before_json_was_parsed(program: Program) -> None:
    assert program("probe", "--nonsense", "--json") == 2
    assert json.loads(program.stdout.getvalue())["code"] == "usage"


def test_a_fault_of_ours_is_two_lines_and_a_traceback_only_when_asked(program: Program) -> None:
    def fail(run: Invocation) -> None:
        raise KeyError("wal_level")

    program.behaviour = fail
    assert program("probe") == 1
    assert program.said.startswith("error: KeyError: 'wal_level'\n") and program.said.endswith("[internal]\n")
    assert program("probe", "-vv") == 1
    assert "Traceback" in program.said


def test_the_systems_refusal_names_the_file(program: Program) -> None:
    program.behaviour = lambda run: open("/no/such/dir/file").close()
    assert program("probe") == 1
    assert "/no/such/dir/file: No such file or directory" in program.said


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (("wal", "--count", "x"), 2),
        (("wal", "push", "--nonsense"), 2),
        (("wal", "fetch", "--nonsense"), 126),
        (("-c", "main", "wal", "-v", "fetch", "--nonsense"), 126),
        (("wal", "fetch", "--standby", "--nonsense"), 1),
    ],
)
def test_errors_of_wal_fetch_never_look_like_the_end_of_the_archive(
    program: Program, argv: tuple[str, ...], status: int
) -> None:
    assert program(*argv) == status


def test_a_broken_installation_does_not_end_a_recovery(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('half an upgrade')")
    program = [sys.executable, "-m", "pgrecall", "wal", "fetch", "000000010000000000000001", "x"]
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(program, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 126
    assert "half an upgrade" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("options", "levels"), [((), "WE"), (("-v",), "IWE"), (("-vv",), "DIWE"), (("-q",), "E")])
def test_log_lines_follow_quiet_and_verbose(program: Program, options: tuple[str, ...], levels: str) -> None:
    def work(run: Invocation) -> None:
        log = logging.getLogger("pgrecall.services.any")
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            log.log(level, "segment\n%s", "x")

    program.behaviour = work
    assert program("probe", *options) == 0
    assert [line.split()[1][0].upper() for line in program.said.splitlines()] == list(levels)
    assert all(line.endswith(" services.any: segment\\x0ax") for line in program.said.splitlines())


def test_a_verbs_own_status_is_kept(program: Program) -> None:
    program.behaviour = lambda run: run.status(["a copy is missing"])
    assert program("probe") == 3


def test_names_cannot_drive_the_terminal(program: Program) -> None:
    def fail(run: Invocation) -> None:
        raise ObjectDamaged("table \x1b[2Jevil\r\ud800\u202e is gone")

    program.behaviour = fail
    assert program("probe") == 9
    assert "table \\x1b[2Jevil\\x0d\\ud800\\u202e is gone" in program.said


def test_colours_are_for_terminals_that_want_them(program: Program) -> None:
    def fail(run: Invocation) -> None:
        raise ObjectDamaged("broken")

    program.behaviour = fail
    program.stderr = Terminal()
    program("probe")
    assert "\x1b[31merror: \x1b[0m" in program.said
    program.stderr = Terminal()
    program.environ["NO_COLOR"] = "1"
    program("probe")
    assert "\x1b" not in program.said


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (("demo",), ("-c", "--repo", "--config", "--identity-file", "--yes", "--dry-run")),
        (("wal", "push"), ("--json", "--yes")),
        (("wal", "fetch"), ("--json", "--yes")),
    ],
)
def test_a_verb_takes_no_option_that_has_no_effect(words: tuple[str, ...], flags: tuple[str, ...]) -> None:
    command: click.Command | None = verbs.root()
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    taken = {flag for each in command.params for flag in each.opts}
    assert not taken & set(flags)
    assert "--quiet" in taken


def test_every_verb_explains_itself_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for name in verbs.VERBS:
        try:
            command = verbs.root().get_command(click.Context(click.Command("pgrecall")), name)
        except ModuleNotFoundError as missing:
            pytest.skip(f"{missing.name} is not there yet")
        assert command is not None and command.help, name
        assert isinstance(command, click.Group | Verb), name
        assert isinstance(command, click.Group) or command.examples, f"{name} --help shows no example"


def start_program(*argv: str, config: Path) -> "subprocess.Popen[str]":
    program = [sys.executable, "-m", "pgrecall", "--config", str(config), *argv]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_help_and_version_are_results_on_stdout() -> None:
    for argv, text in (
        (["--help"], "Bring back:"),
        ([], "Bring back:"),
        (["--version"], "pgrecall "),
        (["list", "--help"], "Examples:"),
    ):
        done = subprocess.run([sys.executable, "-m", "pgrecall", *argv], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert text in done.stdout


def test_a_reader_that_goes_away_is_no_error_to_talk_about() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "pgrecall", "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_quietly_with_its_own_status(tmp_path: Path, number: int, status: int) -> None:
    created = Repository.create(PosixStorage(tmp_path / "repo"), sealed=True, clock=SystemClock(), passphrase=False)
    created.repository.add_cluster("main", created.root)
    started = tmp_path / "started"
    config = tmp_path / "pgrecall.toml"
    repository = f'url = "repo"\nidentity_command = "touch {started}; exec sleep 30"'
    config.write_text(f"[repository]\n{repository}\n[clusters.main]\n")
    process = start_program("list", config=config)
    deadline = time.monotonic() + 20
    while not started.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == status
    assert "Traceback" not in stderr


def test_what_postgresql_calls_for_every_segment_loads_nothing_heavy() -> None:
    """docs/decisions/0005: psycopg and numpy would each double what a call of `wal push` or `wal fetch` costs."""
    called = "cli.wal, services.archive.push, services.archive.fetch, services.context, services.unattended, config"
    modules = ", ".join(f"pgrecall.{name}" for name in called.split(", "))
    program = f"import sys, {modules}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"numpy", "psycopg", "rich", "asyncio", "http"} & set(done.stdout.split())
