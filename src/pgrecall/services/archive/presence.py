"""Owns the question whether the repository is there at all: an unmounted directory looks like an empty one."""

from pgrecall.errors import ObjectMissing, StorageError
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.layout import identity_name


def require_presence(store: ClusterStore) -> None:
    """Raise StorageError unless the cluster's first object is there, which is never removed, or, if that was lost, any.

    Without them "not found" proves nothing, and what is written may land under a mount point.
    """
    try:
        store.storage.head(store.key(identity_name(0)))
    except ObjectMissing:
        if any(True for _ in store.list_dirs("")):
            return
        raise StorageError(
            f"the repository with cluster '{store.name}' is not at {store.storage.place}",
            hint="Is the file system mounted? A new repository is made by pgrecall init.",
        ) from None
