"""PostgreSQL versions that scripts/servers unpacked beside the system's own."""

import os
from pathlib import Path

SIDE_BINDIRS = "TEST_PG_BINDIRS"  # directories of programs, ":" between them: instead of looking for them


def side_bindirs() -> list[Path]:
    named = os.environ.get(SIDE_BINDIRS)
    if named is not None:
        return [Path(text) for text in named.split(":") if text]
    caches = [Path("/var/cache"), Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")]
    return [path for cache in caches for path in sorted(cache.glob("pgrecall-test/*/usr/lib/postgresql/*/bin"))]
