"""Owns the names of users and groups: files are kept by name, because numbers differ between hosts."""

import grp
import pwd
from functools import cache

from pgrecall.repository.manifest_writer import ManifestWriter


class Principals:
    """Numbers of this host → indexes of the manifest. An account without a name is kept as its number."""

    def __init__(self, manifest: ManifestWriter) -> None:
        self._manifest = manifest
        self.user = cache(self._user)
        self.group = cache(self._group)

    def _user(self, uid: int) -> int:
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        return self._manifest.principal(name)

    def _group(self, gid: int) -> int:
        try:
            name = grp.getgrgid(gid).gr_name
        except KeyError:
            name = str(gid)
        return self._manifest.principal(name)
