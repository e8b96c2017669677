"""Started as root, a restore is refused when the restored server could not read what brings its WAL."""

from pathlib import Path

from pgrecall.postgres.users import find_user
from pgrecall.services.restore.plan import refuse_unreadable
from pgrecall.services.restore.tree import Ownership

NOBODY = find_user()


def test_an_identity_that_the_servers_user_cannot_read_is_told_before_anything_is_written(tmp_path: Path) -> None:
    identity = tmp_path / "identity of mine"
    identity.write_text("secret")
    identity.chmod(0o600)
    owned_by_nobody = Ownership(default=(NOBODY.uid, NOBODY.gid))
    (refused,) = refuse_unreadable([identity, Path("/etc/passwd")], owned_by_nobody)
    assert f"{NOBODY.name}, as whom the restored server fetches its WAL, cannot read {identity}" in refused.message
    assert refused.hint == f"install -o {NOBODY.name} -m 600 '{identity}' /var/tmp/, and name that copy"
    assert refuse_unreadable([identity], Ownership()) == []
