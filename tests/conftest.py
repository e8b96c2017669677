"""Fixtures for every test: the PostgreSQL versions of this machine, and servers that cost a copy, not an initdb."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from pgrecall.postgres.binaries import Binaries, available_binaries
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from tests.support.cluster import QUICK_SETTINGS, Templates
from tests.support.installed import side_bindirs

MAJORS_WANTED = (15, 16, 17, 18)
REQUIRE = "PGRECALL_REQUIRE"  # "all": a component that is missing fails the session; .ci/run sets it


def _installations() -> dict[int, Binaries]:
    found: dict[int, Binaries] = {}
    for binaries in available_binaries(side_bindirs()):
        known = found.get(binaries.major)
        # Debian's build before the wheel's: it has contrib, so that amcheck can be asked
        if binaries.major in MAJORS_WANTED and (known is None or known.origin == "wheel"):
            found[binaries.major] = binaries
    return found


INSTALLED = _installations()
REQUIRED = os.environ.pop(REQUIRE, "")  # not for the programs that we test


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "newest: needs a server, but one version of PostgreSQL says enough: only the newest runs",
        "contrib: needs amcheck: only on versions that are installed with contrib",
        "root: needs root (mounts, other users); skipped without",
    ):
        config.addinivalue_line("markers", line)
    missing = [f"PostgreSQL {major}" for major in MAJORS_WANTED if major not in INSTALLED]
    if importlib.util.find_spec("pgrecall.postgres._native") is None:
        missing.append("the C module")
    if missing and REQUIRED == "all":
        raise pytest.UsageError(f"{REQUIRE}=all, but missing here: {', '.join(missing)}; see what scripts/setup said")


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"servers: {INSTALLED.get(major) or f'no PostgreSQL {major}'}" for major in MAJORS_WANTED]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "binaries" not in metafunc.fixturenames:
        return
    majors = list(MAJORS_WANTED)
    if metafunc.definition.get_closest_marker("contrib"):
        majors = [each for each in majors if each not in INSTALLED or INSTALLED[each].has_extension("amcheck")]
    if metafunc.definition.get_closest_marker("newest"):
        majors = [max((each for each in majors if each in INSTALLED), default=majors[-1])]
    params = [
        pytest.param(
            INSTALLED.get(major),
            id=f"pg{major}",
            marks=() if major in INSTALLED else pytest.mark.skip(reason=f"PostgreSQL {major} is not installed"),
        )
        for major in majors
    ]
    metafunc.parametrize("binaries", params, indirect=True, scope="session")


@pytest.fixture(scope="session")
def binaries(request: pytest.FixtureRequest) -> Binaries:
    """One version of PostgreSQL; a test that asks for it, or for a server, runs once per version (see the marks)."""
    assert isinstance(request.param, Binaries)
    return request.param


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """Clusters made once per session, version and options, copied for each test."""
    return Templates(tmp_path_factory.mktemp("templates"))


class NewServer(Protocol):
    def __call__(
        self,
        name: str = "source",
        *,
        options: InitOptions | None = None,
        settings: dict[str, str] | None = None,
        start: bool = True,
        own_identity: bool = False,
    ) -> ScratchServer:
        """A server on `tmp_path/name`, stopped and removed after the test.

        Servers of one version and the same options have the same system identifier (they are copies), unless
        `own_identity` asks for an initdb. `settings` come on top of QUICK_SETTINGS.
        """


@pytest.fixture
def new_server(binaries: Binaries, templates: Templates, tmp_path: Path) -> Iterator[NewServer]:
    made: list[ScratchServer] = []

    def make(
        name: str = "source",
        *,
        options: InitOptions | None = None,
        settings: dict[str, str] | None = None,
        start: bool = True,
        own_identity: bool = False,
    ) -> ScratchServer:
        pgdata = tmp_path / name
        server = ScratchServer(binaries, pgdata, {**QUICK_SETTINGS, **(settings or {})})
        made.append(server)
        if own_identity:
            server.initdb(options)
        else:
            templates.copy(binaries, options or InitOptions(), pgdata)
        return server.start() if start else server

    yield make
    for server in reversed(made):
        server.close()


class OpenServer(Protocol):
    def __call__(self, pgdata: Path, *, settings: dict[str, str] | None = None, isolated: bool = True) -> ScratchServer:
        """A server, not started, on a data directory that is there already (a restored one); closed after the test."""


@pytest.fixture
def open_server(binaries: Binaries) -> Iterator[OpenServer]:
    made: list[ScratchServer] = []

    def make(pgdata: Path, *, settings: dict[str, str] | None = None, isolated: bool = True) -> ScratchServer:
        made.append(ScratchServer(binaries, pgdata, {**QUICK_SETTINGS, **(settings or {})}, isolated=isolated))
        return made[-1]

    yield make
    for server in reversed(made):
        server.close()


@pytest.fixture
def pg(new_server: NewServer) -> ScratchServer:
    """A started server of one version, empty but for what initdb makes."""
    return new_server()
