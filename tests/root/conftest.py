"""What only root can try; scripts/run_tests.py runs it as root before it drops its privileges."""

from pathlib import Path

import pytest

from pgrecall.postgres.users import is_root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)
            if not is_root():
                item.add_marker(pytest.mark.skip(reason="needs root"))
