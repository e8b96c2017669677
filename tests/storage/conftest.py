"""Owns the storages that the conformance suite runs over."""

from pathlib import Path

import pytest

from pgrecall.storage.base import Storage
from pgrecall.storage.counted import CountedStorage
from pgrecall.storage.posix import PosixStorage
from tests.support.faulty import FaultyStorage


@pytest.fixture(params=["posix", "counted", "faulty-free"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    posix = PosixStorage(tmp_path / "repo")
    match request.param:
        case "counted":
            return CountedStorage(posix)
        case "faulty-free":
            return FaultyStorage(posix)
    return posix
