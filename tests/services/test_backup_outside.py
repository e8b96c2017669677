"""Configuration that lies outside the data directory is in the backup, whatever its size."""

from pathlib import Path

import pytest

from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.paths import OUTSIDE
from tests.conftest import NewServer, OpenServer
from tests.support.whole_cycle import Cycle

LINES = 40_000


@pytest.mark.newest
def test_a_configuration_file_of_more_than_a_mebibyte_is_stored_like_any_other(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "big.conf"
    elsewhere.write_text(
        "work_mem = '5MB'\n" + "".join(f"# line {number:06} of somebody's habits\n" for number in range(LINES))
    )
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        cycle.server.configure({"include": str(elsewhere)}).restart()
        result = cycle.backup()
        reader = ManifestReader.open(cycle.store, result.label)
        (stored,) = [each for each in reader.files(OUTSIDE) if each.entry.name.endswith(b"big.conf")]
        content = memoryview(bytearray(stored.entry.size))
        (node,) = reader.nodes(reader.node_list(stored))
        reader.chunk_reader().assemble(node.extents, node.ranges, stored.path, content)
        assert bytes(content) == elsewhere.read_bytes()
