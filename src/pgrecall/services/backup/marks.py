"""Owns what a writer knows of damage: packs that a check marked bad or that are gone, whose chunks count as absent."""

from pgrecall.domain.label import BackupLabel
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.layout import BAD_MARKS, PACKS, pack_name, parse_run_name
from pgrecall.repository.live import LivePacks


def read_bad_marks(store: ClusterStore) -> frozenset[PackRef]:
    found = (parse_run_name(info.key) for info in store.list(BAD_MARKS))
    return frozenset(PackRef(run.number, seq) for run, seq in (each for each in found if each is not None))


def find_lost_packs(store: ClusterStore, needed: LivePacks) -> frozenset[PackRef]:
    """The packs among those needed that are not there any more: nothing new may rest on them. One listing per run."""
    there = {
        info.key for run in needed.runs() for info in store.list(f"{PACKS}{BackupLabel.from_number(run)}/") if info.size
    }
    return frozenset(pack for pack in needed if pack_name(BackupLabel.from_number(pack.run), pack.pack) not in there)
