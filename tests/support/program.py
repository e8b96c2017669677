"""The whole program on a server of the test's own: a home, a configuration place, `pgrecall …` as users type it."""

import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgrecall.cli.main import run
from pgrecall.clock import Clock, SystemClock
from pgrecall.postgres.scratch import SUPERUSER, ScratchServer


@dataclass
class Program:
    """Calls the program in this process; `said` and `result` are of the last call."""

    home: Path
    clock: Clock = field(default_factory=SystemClock)
    said: str = ""
    result: str = ""

    @property
    def config(self) -> Path:
        return self.home / ".config/pgrecall/pgrecall.toml"

    def __call__(self, *argv: str | Path, **environ: str) -> int:
        stdout, stderr = io.StringIO(), io.StringIO()
        own = {"HOME": str(self.home), "PGUSER": SUPERUSER, "PGRECALL_CONFIG": str(self.config)}
        variables = {**os.environ, **own, **environ}
        status = run([str(word) for word in argv], stdout=stdout, stderr=stderr, environ=variables, clock=self.clock)
        self.said, self.result = stderr.getvalue(), stdout.getvalue()
        return status

    def json(self, *argv: str | Path, status: int = 0, **environ: str) -> Any:
        """The data of a call with --json, which must end with this status."""
        ended = self(*argv, "--json", **environ)
        assert ended == status, f"exit {ended}: {self.said}{self.result}"
        return json.loads(self.result)["data"]


def protect(program: Program, server: ScratchServer, *options: str) -> dict[str, Any]:
    """init --apply on a running server, and the restart that archive_mode needs."""
    place = ("--repo", str(program.home / "repo"), "--pgdata", str(server.pgdata))
    status = program("init", *place, "--apply", "--json", *options)
    assert status in (0, 3), program.result  # 3: fsync is off in tests
    server.restart()
    data: dict[str, Any] = json.loads(program.result)["data"]
    return data
