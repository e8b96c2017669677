"""[notify]: commands and URLs hear how a run ended, once, and can harm nothing."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pgrecall.clock import ManualClock
from pgrecall.config import Settings, load_settings
from pgrecall.errors import StorageDenied
from pgrecall.observe.notify import Event, notify, shown
from pgrecall.services.unattended import UnattendedRun

EVENT = Event("failure", "backup", "main", "db1", "2026-11-20T13:05:00Z", "it\x1b broke", "storage-denied", "fix it")


class Receiver(BaseHTTPRequestHandler):
    received: ClassVar[list[Any]] = []
    status = 204

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    Receiver.received.clear()
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()


def settings(tmp_path: Path, url: str) -> Settings:
    path = tmp_path / "pgrecall.toml"
    path.write_text(
        f'state_dir = "state"\n[clusters.main]\n[notify]\non_failure = "{url}"\n'
        f'on_success = "cat >> {tmp_path}/told"\nheartbeat = "echo $PGRECALL_EVENT >> {tmp_path}/beats"\n'
    )
    return load_settings(path, environ={})


def unattended(found: Settings, said: list[str], clock: ManualClock, *, repeats: bool = False) -> UnattendedRun:
    return UnattendedRun(found, found.cluster(), verb="backup", clock=clock, warn=said.append, repeats=repeats)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock("2026-11-20T13:05:00Z")


def test_an_event_that_quotes_a_name_that_is_no_utf8_is_a_document_nevertheless() -> None:
    event = Event("failure", "backup", "main", "db1", "2026-11-20T13:05:00Z", "cannot read a\udcff")
    assert json.loads(event.document())["message"] == "cannot read a\udcff"


def test_a_url_gets_the_event_as_json_and_a_command_gets_it_on_stdin(url: str, tmp_path: Path) -> None:
    assert notify([url, f"cat > {tmp_path}/event"], EVENT, timeout_seconds=10) == []
    expected = {"schema": "pgrecall.event/1", "event": "failure", "verb": "backup", "code": "storage-denied"}
    for got in (Receiver.received[0], json.loads((tmp_path / "event").read_text())):
        assert expected.items() <= got.items()


def test_a_command_gets_the_event_in_its_environment(tmp_path: Path) -> None:
    command = f'printf "%s/%s/%s" "$PGRECALL_EVENT" "$PGRECALL_EVENT_CLUSTER" "$PGRECALL_EVENT_HINT" > {tmp_path}/told'
    assert notify([command], EVENT, timeout_seconds=10) == []
    assert (tmp_path / "told").read_text() == "failure/main/fix it"


def test_targets_that_fail_hang_or_are_away_are_named_without_their_secrets() -> None:
    targets = ["echo sorry >&2; exit 3", "sleep 60", "http://127.0.0.1:1/secret-hook-path"]
    troubles = notify(targets, EVENT, timeout_seconds=0.5)
    assert "exit status 3: sorry" in troubles[0]
    assert "no end within 0.5 s" in troubles[1]
    assert "http://127.0.0.1:1/…" in troubles[2] and "secret" not in troubles[2]
    assert shown("https://user:word@hooks.example/T0/B1") == "https://hooks.example/…"


def test_success_and_heartbeat_follow_a_good_run_and_failure_a_bad_one(
    url: str, tmp_path: Path, clock: ManualClock
) -> None:
    found, said = settings(tmp_path, url), list[str]()
    with unattended(found, said, clock) as run:
        run.message = "all stored"
    assert json.loads((tmp_path / "told").read_text())["message"] == "all stored"
    assert (tmp_path / "beats").read_text() == "success\n"
    with pytest.raises(StorageDenied), unattended(found, said, clock):
        raise StorageDenied("403", hint="ask")
    assert [(each["code"], each["hint"]) for each in Receiver.received] == [("storage-denied", "ask")]
    assert (tmp_path / "beats").read_text() == "success\n" and said == []


def test_a_killed_run_is_told_by_the_next_one(url: str, tmp_path: Path, clock: ManualClock) -> None:
    found, said = settings(tmp_path, url), list[str]()
    killed = unattended(found, said, clock)
    killed.__enter__()
    (mark,) = (tmp_path / "state/main/runs").iterdir()
    mark.rename(mark.with_suffix(".99999999"))
    with unattended(found, said, clock):
        pass
    assert [(each["code"], each["message"]) for each in Receiver.received] == [
        ("killed", "backup of main, begun 2026-11-20T13:05:00Z, was killed")
    ]
    assert list((tmp_path / "state/main/runs").iterdir()) == []


def test_a_run_that_still_lives_is_not_called_killed(url: str, tmp_path: Path, clock: ManualClock) -> None:
    found, said = settings(tmp_path, url), list[str]()
    with unattended(found, said, clock), unattended(found, said, clock):
        pass
    assert Receiver.received == []


def test_what_postgresql_repeats_every_minute_is_told_once_an_hour(
    url: str, tmp_path: Path, clock: ManualClock
) -> None:
    found, said = settings(tmp_path, url), list[str]()

    def push(error: Exception | None) -> None:
        with unattended(found, said, clock, repeats=True):
            if error is not None:
                raise error

    for _ in range(3):
        with pytest.raises(StorageDenied):
            push(StorageDenied("403"))
        clock.advance(60)
    assert len(Receiver.received) == 1
    clock.advance(3600)
    with pytest.raises(StorageDenied):
        push(StorageDenied("403"))
    assert len(Receiver.received) == 2
    push(None)
    with pytest.raises(StorageDenied):
        push(StorageDenied("403"))
    assert len(Receiver.received) == 3
    assert not (tmp_path / "told").exists()


def test_without_targets_nothing_is_written(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "pgrecall.toml"
    path.write_text('state_dir = "state"\n[clusters.main]\n')
    found = load_settings(path, environ={})
    with unattended(found, [], clock):
        pass
    assert not (tmp_path / "state").exists()
