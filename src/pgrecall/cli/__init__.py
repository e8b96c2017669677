"""The command line: one module per verb, each parse → one service call → render; the only place that exits the process.

How to write a verb module (say `cli/list.py`):

    from pgrecall.cli.invocation import Invocation
    from pgrecall.cli.options import argument, option, verb

    @verb(
        "list",
        examples=["pgrecall list", "pgrecall list -c main --json"],
        writes=False,                       # True adds --dry-run and --yes
    )
    @option("--graph", is_flag=True, help="Draw how backups share packs.")
    def command(run: Invocation, graph: bool) -> int | None:
        '''Show the backups of a cluster.

        The docstring is the help text: what it does, then what a newcomer must know.
        '''
        answer = list_backups(run.settings(), run.clusters(), identity=run.identity())     # services/…: one call
        run.emit("list", 1, data=answer, text=lambda: render(answer, run.out))              # stdout: lines or JSON
        return run.status(answer.warnings)                                                  # 0, or 3 when degraded

then add one row to `VERBS` in `cli/verbs.py`. The module is imported when the verb is used. What a verb gets:

- `run.settings()`                typed configuration (config.py), read at first use; `run.globals` the global options as typed.
- `run.cluster()`                 the one cluster a writing verb acts on (refuses when several match); `run.clusters()` for reading verbs.
- `run.become_owner(cluster)`     started as root: become the owner of the data directory; first line of verbs that touch one.
- `run.identity()`                text of `--identity-file` (age identity or recovery passphrase), or None; hand it to services/context.py.
- `run.progress()`                context manager giving a `Reporter`: bar on a terminal after 2 s, quiet lines elsewhere (stderr). Its
                                  warnings are kept in `.warnings`.
- `run.unattended("backup", cluster)`  context manager: calls [notify] on success, on failure, and for a run that was killed before.
- `run.emit(name, version, data=…, text=…)`  the result, once: `text` is called only when not `--json` and gives lines (str or Line).
- `run.out.note(…)`, `run.out.warn(…)`       one line on stderr; notes are dropped by -q.
- `run.confirm("Remove …?")`      asks on a terminal, else refuses and names --yes.
- raise a `PgrecallError` with both values and a hint; never print it, never call sys.exit. `cli/main.py` renders it and exits.

Text of tables: `cli/table.py`. `--json` data: dataclasses, datetimes, Lsn, Path, Enum are converted (`cli/output.py: jsonable`);
describe the schema in docs/json.md.
"""
