"""Pages that state what the code decides are compared with the code."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pgrecall
from pgrecall import config_docs
from pgrecall.errors import PgrecallError

DOCS = Path(__file__).parent.parent / "docs"


def test_the_configuration_page_lists_every_option_as_declared() -> None:
    page = (DOCS / "configuration.md").read_text("utf-8")
    assert page == config_docs.document(), "python -m pgrecall.config_docs > docs/configuration.md"


def test_the_errors_page_lists_every_code_with_its_exit_status() -> None:
    page = (DOCS / "errors.md").read_text("utf-8")
    listed = {
        (code, int(status)) for code, status in re.findall(r"^\| `([a-z0-9-]+)` \| (\d+) \| \S", page, re.MULTILINE)
    }
    known = {(each.code, each.exit_status) for each in _errors(PgrecallError)}
    assert listed == known, f"docs/errors.md lacks {sorted(known - listed)}, has in excess {sorted(listed - known)}"


def test_the_json_page_describes_every_schema_that_a_verb_emits() -> None:
    page = (DOCS / "json.md").read_text("utf-8")
    verbs = (Path(pgrecall.__file__).parent / "cli").glob("*.py")
    emitted = {
        match for verb in verbs for match in re.findall(r'run\.emit\(\s*"([a-z-]+)", (\d+)', verb.read_text("utf-8"))
    }
    missing = [
        f"pgrecall.{name}/{version}" for name, version in emitted if f"## `pgrecall.{name}/{version}`" not in page
    ]
    assert not missing, f"docs/json.md does not describe {missing}"


def test_no_code_is_given_twice_and_every_class_that_others_may_meet_stands_in_errors_py() -> None:
    found = list(_errors(PgrecallError))
    codes = [each.code for each in found]
    assert len(codes) == len(set(codes)), sorted(code for code in codes if codes.count(code) > 1)
    elsewhere = [each for each in found if each.__module__ != "pgrecall.errors" and not each.__name__.startswith("_")]
    assert not elsewhere, f"move to errors.py: {elsewhere}"


def test_the_page_of_correctness_names_tests_that_there_are() -> None:
    page = (DOCS / "correctness.md").read_text("utf-8")
    written = "\n".join(each.read_text("utf-8") for each in Path(__file__).parent.rglob("test_*.py"))
    gone = [name for name in sorted(set(re.findall(r"`(test_\w+)`", page))) if f"def {name}(" not in written]
    assert not gone, f"docs/correctness.md names tests that are not there: {gone}"


def _errors(base: type[PgrecallError]) -> Iterator[type[PgrecallError]]:
    for module in pkgutil.walk_packages(pgrecall.__path__, "pgrecall."):
        if not module.name.endswith(("__main__", "_native")):
            importlib.import_module(module.name)
    yield base
    waiting = [base]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        yield from (each for each in below if each.__module__.startswith("pgrecall"))
