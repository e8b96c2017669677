"""Owns reading the marks of packs that somebody found damaged: nothing new may rest on them."""

from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.layout import BAD_MARKS, parse_run_name


def read_bad_marks(store: ClusterStore) -> frozenset[PackRef]:
    """Every pack that carries a mark."""
    places = (parse_run_name(info.key) for info in store.list(BAD_MARKS))
    return frozenset(PackRef(run.number, seq) for run, seq in (each for each in places if each is not None))
