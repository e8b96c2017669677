"""The project's own rules, held by one walk over its syntax trees: each complaint names file, line and cure."""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "pgrecall"
LONGEST_FILE_LINES = 450

# What each layer may import of ours, besides itself. Who is not in a list is not below.
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "durable": {"errors"},
    "domain": {"errors"},
    "observe": {"errors", "clock", "domain"},
    "config": {"errors", "domain"},
    "storage": {"errors", "clock", "durable", "domain", "observe"},
    "postgres": {"errors", "clock", "durable", "domain", "observe", "storage"},
    "repository": {"errors", "clock", "durable", "domain", "observe", "storage"},
}
BELOW["services"] = set(BELOW)
BELOW["agent"] = set(BELOW)
BELOW["cli"] = set(BELOW)
BELOW["__main__"] = {"cli"}
EXITING = {"exit", "quit"}
READING_THE_TIME = {"now", "utcnow", "today"}
OF_ONE_MACHINE = re.compile("(?<![A-Za-z0-9_.])/(work|root|opt/pypi|opt/wheels)" + "/|pythonhosted[.]org")


def layer_of(path: Path) -> str:
    """The directory below the package; of modules beside them the name, `config_…` counting as `config`."""
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "config" if part.startswith("config") else part


def complaints(path: Path, source: str) -> Iterator[str]:
    """What is wrong with one module: "file:line: what → cure"."""
    tree = ast.parse(source)
    where = path.relative_to(ROOT)
    in_package = path.is_relative_to(PACKAGE)
    if source.strip() and ast.get_docstring(tree) is None:
        yield f"{where}:1: no docstring → open the module with one sentence that says what it owns"
    for number, line in enumerate(source.splitlines(), 1):
        if OF_ONE_MACHINE.search(line):
            yield f"{where}:{number}: a path or host of one machine → take it from a setting or a temporary directory"
    if not in_package:
        return
    lines = len(source.splitlines())
    if lines > LONGEST_FILE_LINES:
        yield f"{where}:{lines}: longer than {LONGEST_FILE_LINES} lines → split it; one file owns one idea"
    for number, problem in problems(tree, layer_of(path)):
        yield f"{where}:{number}: {problem}"


def problems(tree: ast.AST, layer: str) -> Iterator[tuple[int, str]]:
    # a forked child may end itself, and a module that is run by itself may speak
    excused = {id(inner) for node in ast.walk(tree) if is_excuse(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        for module in imported(node):
            if module == "time" and layer != "clock":
                yield line_of(node), "imports time → take a `clock: Clock` argument"
            if module.startswith("pgrecall.") and not may_import(layer, module):
                cure = f"{layer} may use {', '.join(sorted(BELOW.get(layer, ()))) or 'nothing'}"
                yield line_of(node), f"imports {module}, which is not below it → {cure}; move the code or pass it in"
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in READING_THE_TIME and layer != "clock":
                if ast.unparse(value).rpartition(".")[2] in {"datetime", "date"}:
                    yield node.lineno, f"{ast.unparse(node.func)}() reads the time → take a `clock: Clock` argument"
            case ast.Call(func=ast.Name(id="print")) if layer != "cli":
                yield node.lineno, "prints → return a result or tell the Reporter; only cli writes to people"
            case ast.Call(func=ast.Name(id=name)) if name in EXITING:
                yield node.lineno, f"{name}() ends the process → raise an error with a name"
            case ast.Attribute(value=ast.Name(id="sys"), attr="exit" | "stdout" as name) if not (
                layer in {"cli", "__main__"} or id(node) in excused
            ):
                yield node.lineno, f"sys.{name} → raise an error or return a result; cli does the rest"
            case ast.Attribute(value=ast.Name(id="os"), attr="_exit") if layer != "cli" and id(node) not in excused:
                yield node.lineno, "os._exit outside a function that forks → raise an error with a name"
            case ast.Raise(exc=ast.Call(func=ast.Name(id="SystemExit")) | ast.Name(id="SystemExit")) if layer != "cli":
                yield node.lineno, "raises SystemExit → raise an error with a name; cli sets the exit status"
            case _:
                pass


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [each.name for each in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        if node.module == "pgrecall":
            return [f"pgrecall.{each.name}" for each in node.names if not each.name.startswith("__")]
        return [node.module]
    return []


def may_import(layer: str, module: str) -> bool:
    wanted = layer_of(PACKAGE / f"{module.split('.')[1]}.py")
    return wanted == layer or wanted in BELOW.get(layer, set())


def is_excuse(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "__name__ == '__main__'"
    return isinstance(node, ast.FunctionDef) and "os.fork()" in ast.unparse(node)


def line_of(node: ast.AST) -> int:
    return getattr(node, "lineno", 1)


def python_files() -> list[Path]:
    return sorted(path for place in ("src", "tests", "scripts") for path in (ROOT / place).rglob("*.py"))


def test_every_module_keeps_the_rules() -> None:
    found = [each for path in python_files() for each in complaints(path, path.read_text(encoding="utf-8"))]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("module", "code", "complaint"),
    [
        ("domain/lsn.py", "from pgrecall.storage.base import Buffer", "not below it"),
        ("repository/pack.py", "from pgrecall import services", "not below it"),
        ("repository/pack.py", "import pgrecall.postgres.page", "not below it"),
        ("services/backup.py", "import time", "clock: Clock"),
        ("services/backup.py", "from datetime import datetime\nx = datetime.now()", "reads the time"),
        ("services/backup.py", "import datetime\nx = datetime.date.today()", "reads the time"),
        ("services/backup.py", "print(1)", "prints"),
        ("services/backup.py", "import sys\nsys.exit(1)", "sys.exit"),
        ("services/backup.py", "raise SystemExit(1)", "SystemExit"),
        ("postgres/users.py", "import os\nos._exit(1)", "outside a function that forks"),
        ("cli/main.py", "exit(1)", "ends the process"),
        ("services/backup.py", "x = '/wo' + 'rk'\n" * 451, "longer than 450 lines"),
        ("services/backup.py", "path = '/ro" + "ot/x'", "of one machine"),
    ],
)
def test_a_breach_is_named_with_file_line_and_cure(module: str, code: str, complaint: str) -> None:
    found = list(complaints(PACKAGE / module, f'"""Says what it owns."""\n{code}\n'))
    assert len(found) == 1
    assert complaint in found[0]
    assert re.match(rf"src/pgrecall/{module}:\d+: .* → .+", found[0])


def test_what_is_allowed_draws_no_complaint() -> None:
    code = '''
        """Says what it owns."""
        import os
        from pgrecall import __version__
        from pgrecall.domain.lsn import Lsn
        def child() -> None:
            if os.fork() == 0:
                os._exit(0)
    '''
    assert list(complaints(PACKAGE / "repository/pack.py", textwrap.dedent(code).strip())) == []


def test_a_module_without_a_docstring_is_named() -> None:
    assert "no docstring" in next(complaints(PACKAGE / "domain/lsn.py", "x = 1\n"))
