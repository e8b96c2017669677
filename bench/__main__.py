"""`python -m bench`: measure on this machine, print the table, keep it as JSON, put it into docs/performance.md."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for _path in (ROOT / "src", ROOT):
    if _path.is_dir() and str(_path) not in sys.path:
        sys.path.insert(0, str(_path))

from bench.report import markdown, write_page  # noqa: E402
from bench.work import Options, measure  # noqa: E402
from pgrecall.domain.humanize import parse_bytes  # noqa: E402
from pgrecall.postgres.osuser import run_as, terminable  # noqa: E402
from pgrecall.postgres.staging import environment_for, staged  # noqa: E402
from pgrecall.postgres.users import find_user, is_root, unreachable  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    if is_root():
        return _unprivileged(arguments, options)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as home:
        result = measure(
            Options(
                home=Path(home),
                size=parse_bytes(options.size),
                files=options.files,
                rounds=options.rounds,
                jobs=options.jobs,
                peers=options.peers,
                scenarios=tuple(options.scenario),
            ),
            now=datetime.now(UTC),
            say=_say,
        )
    text = markdown(result)
    sys.stdout.write(text)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.write:
        write_page(options.page, text)
    return 0


def _unprivileged(arguments: list[str], options: argparse.Namespace) -> int:
    """PostgreSQL refuses root: the same again as a user that it accepts; that one's results are written by us."""
    user = find_user(os.environ.get("BENCH_USER"))
    _say(f"PostgreSQL refuses root: everything runs as {user.name}.")
    with terminable(), staged(user) as stage:
        code = ROOT / "bench"
        if unreachable(user, [code]):
            code = stage.add(code, "bench")
        environment = environment_for(stage, dict(os.environ))
        environment["PYTHONPATH"] = f"{code.parent}:{environment.get('PYTHONPATH', '')}".rstrip(":")
        place = stage.temporary
        if options.dir:
            place = Path(tempfile.mkdtemp(prefix="bench-", dir=options.dir))
            os.chown(place, user.uid, user.gid)
        answer = stage.temporary / "result.json"
        argv = [str(stage.python), "-m", "bench", *arguments, "--json", str(answer), "--no-write", "--dir", str(place)]
        try:
            status = run_as(user, argv, environment, directory=stage.temporary)
        finally:
            if options.dir:
                shutil.rmtree(place)
        if status == 0 and options.json:
            shutil.copyfile(answer, options.json)
        if status == 0 and options.write:
            write_page(options.page, markdown(json.loads(answer.read_text(encoding="utf-8"))))
        return status


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--size", default="3GB", help="of the database; 300MB for trying (default: 3GB)")
    parser.add_argument("--files", type=int, default=100_000, help="relation files of the second scenario")
    parser.add_argument("--rounds", type=int, default=5, help="of each scenario (default: 5)")
    parser.add_argument("--jobs", type=int, default=2, help="processes or threads of every tool (default: 2)")
    parser.add_argument("--scenario", nargs="+", choices=["life", "files"], default=["life", "files"])
    parser.add_argument("--dir", type=Path, help="where to work: a directory on the file system to be measured")
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path(os.environ.get("BENCH_PEERS", "/var/cache/pgrecall-bench")),
        help="PostgreSQL and pgBackRest as bench/peers.sh puts them there",
    )
    parser.add_argument("--json", type=Path, help="every number, in a file")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that gets the table")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave the page alone")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
