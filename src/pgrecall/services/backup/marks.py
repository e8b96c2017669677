"""Owns finding packs that are gone: like those that carry a mark, their chunks count as absent."""

from pgrecall.domain.label import BackupLabel
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.layout import PACKS, pack_name
from pgrecall.repository.live import LivePacks


def find_lost_packs(store: ClusterStore, needed: LivePacks) -> frozenset[PackRef]:
    """The packs among those needed that are not there any more: nothing new may rest on them. One listing per run."""
    there = {
        info.key for run in needed.runs() for info in store.list(f"{PACKS}{BackupLabel.from_number(run)}/") if info.size
    }
    return frozenset(pack for pack in needed if pack_name(BackupLabel.from_number(pack.run), pack.pack) not in there)
