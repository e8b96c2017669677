"""The dry run says what a backup would be, and writes nothing."""

from pathlib import Path

import pytest

from pgrecall.clock import SystemClock
from pgrecall.domain.label import BackupKind
from pgrecall.observe.reporter import Silent
from pgrecall.services.backup.preview import BackupPreview, preview_backup
from tests.conftest import NewServer, OpenServer
from tests.support.whole_cycle import Cycle


def preview(cycle: Cycle, *, full: bool = False) -> BackupPreview:
    return preview_backup(cycle.request(full=full), cycle.store, clock=SystemClock(), reporter=Silent())


@pytest.mark.newest
def test_a_dry_run_names_kind_and_parent_as_the_backup_then_does_and_writes_nothing(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        first = preview(cycle)
        assert (first.kind, first.parent) == (BackupKind.FULL, None)
        assert list(cycle.store.labels()) == []
        made = cycle.backup().label
        assert made.kind is first.kind
        incremental, full = preview(cycle), preview(cycle, full=True)
        assert (incremental.kind, incremental.parent) == (BackupKind.INCR, made)
        assert (full.kind, full.parent) == (BackupKind.FULL, made)
        assert list(cycle.store.labels()) == [made]
