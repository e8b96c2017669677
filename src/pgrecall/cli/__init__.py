"""The command line: one module per verb, each parse → one service call → render; the only place that exits the process.

How to write a verb module (say `cli/list.py`):

    from pgrecall.cli.invocation import Invocation
    from pgrecall.cli.options import argument, option, verb

    @verb(
        "list",
        examples=["pgrecall list", "pgrecall list -c main --json"],
        writes=False,                       # True adds --dry-run
    )
    @option("--graph", is_flag=True, help="Draw how backups share packs.")
    def command(run: Invocation, graph: bool) -> int | None:
        '''Show the backups of a cluster.

        The docstring is the help text: what it does, then what a newcomer must know.
        '''
        answer = list_backups(run.settings(), run.clusters(), identity=run.identity())    # services/…: one call
        run.emit("list", 1, data=answer, text=lambda: render(answer))                     # stdout: lines or JSON
        return run.status(answer.warnings)                                                # 0, or 3 when degraded

then add one row to `VERBS` in `cli/verbs.py`. The module is imported when the verb is used. What a verb gets:

- `run.settings()`: typed configuration (config.py), read at first use; `run.globals`: the global options as typed
  (`run.globals.dry_run`…).
- `run.cluster()`: the one cluster a writing verb acts on (refuses when several match); `run.clusters()`: for readers.
- `run.become_owner(cluster)`: started as root, become the owner of the data directory, before touching anything.
- `run.identity()`: text of `--identity-file` (age identity or recovery passphrase), or None; for services/context.py.
- `run.progress()`: context manager giving a `Reporter`: bar on a terminal after 2 s, quiet lines elsewhere (stderr);
  its warnings are kept in `.warnings`.
- `run.unattended("backup", cluster)`: context manager: [notify] hears of success, failure, and of a run killed before.
- `run.emit(name, version, data=…, text=…)`: the result, once; `text` is called only without `--json` and gives lines
  (`Line`: str, Span, or a tuple of them; Span has a style).
- `run.out.note(…)`, `run.out.warn(…)`: one line on stderr; -q drops notes.
- Raise a `PgrecallError` with both values and a hint; never print it, never call sys.exit: `cli/main.py` does.

Text of tables: `cli/table.py`. Data for `--json`: dataclasses, datetimes, Lsn, Path, Enum are converted
(`cli/output.py: jsonable`); the schema is described in docs/json.md.
"""
