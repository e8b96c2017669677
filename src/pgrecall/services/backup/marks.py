"""Owns what a writer knows of damage: the packs that a check has marked bad, whose chunks count as absent."""

from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.layout import BAD_MARKS, parse_run_name


def read_bad_marks(store: ClusterStore) -> frozenset[PackRef]:
    found = (parse_run_name(info.key) for info in store.list(BAD_MARKS))
    return frozenset(PackRef(run.number, seq) for run, seq in (each for each in found if each is not None))
