"""docs/configuration.md, made from the declarations: `python -m pgrecall.config_docs > docs/configuration.md`."""

import dataclasses
import inspect
import sys
from datetime import timedelta
from typing import Any

from pgrecall.config_schema import Table, default_of, options_of
from pgrecall.config_tables import ClusterSettings, GeneralSettings, NotifySettings, RepositorySettings

HEAD = """\
# Configuration

One TOML file, `pgrecall.toml`. `pgrecall init` writes it; this page lists everything it may hold. It is made from the
declarations in `src/pgrecall/config_tables.py` (`python -m pgrecall.config_docs`), and a test keeps it so.

```toml
[repository]
url = "/srv/backup"

[clusters.main]
pgdata = "/var/lib/postgresql/17/main"

[notify]
on_failure = ["https://alerts.example/hook", "mail -s 'backup failed' dba@example.org"]
heartbeat = "https://hc.example/ping/4f2a"
```

**Where it is looked for**, the first that exists: `--config FILE` · `$PGRECALL_CONFIG` · `./pgrecall.toml` ·
`$XDG_CONFIG_HOME/pgrecall/pgrecall.toml` (else `~/.config/…`) · `/etc/pgrecall/pgrecall.toml`. Relative paths in the file are
relative to the file.

**The environment wins over the file, options on the command line over both.** Every setting has a variable: upper case, `__` between
the parts, `-` in names as `_`; numbers and lists as in TOML: `PGRECALL_CLUSTERS__MAIN__PGDATA=/var/lib/postgresql/17/main`,
`PGRECALL_NOTIFY__ON_FAILURE='["true", "https://alerts.example/hook"]'`. Short ones: `PGRECALL_REPOSITORY` (as `--repo`),
`PGRECALL_CLUSTER` (as `-c`; several with blanks between them), `PGRECALL_CONFIG`, `PGRECALL_STATE_DIR`; `PGRECALL_DEBUG=1` shows where an unexpected error
happened; `NO_COLOR=1` switches colours off. PostgreSQL's own `PG…` variables and service files count where a cluster names no `dsn`.

**A mistake is refused**, with file, line and cure, all of them at once; so is a setting that a later version will bring. `pgrecall check --config`
prints every value with its origin, without touching a server or a repository.

**Secrets never stand in the file**: they come from `…_file`, `…_env` (the name of a variable) or `…_command` (its standard output).

Durations are written `"30s"`, `"10m"`, `"1h30m"`, `"7d"`. Names are lower-case letters, digits, `_` and `-`.
"""


def document() -> str:
    parts = [HEAD]
    for table in (RepositorySettings, ClusterSettings, NotifySettings, GeneralSettings):
        parts.append(_section(table))
    return "\n".join(parts)


def _section(table: type[Table]) -> str:
    title = {
        RepositorySettings: "`[repository]`, `[repositories.NAME]`",
        ClusterSettings: "`[clusters.NAME]`, `[defaults]`",
        NotifySettings: "`[notify]`",
        GeneralSettings: "Top level",
    }[table]
    lines = [f"## {title}", "", inspect.getdoc(table) or "", "", "| setting | value | default | |", "|---|---|---|---|"]
    for name, declared in options_of(table).items():
        kind = f"{declared.kind.name}, {declared.unit}" if declared.unit else declared.kind.name
        lines.append(f"| `{name}` | {kind} | {_default(default_of(table, name))} | {declared.description} |")
    if table.special:
        lines += ["", f"Refused in this version: {', '.join(f'`{name}`' for name in sorted(table.special))}."]
    return "\n".join([*lines, ""])


def _default(value: Any) -> str:
    match value:
        case dataclasses.MISSING:
            return "must be set"
        case None | () | "":
            return ""
        case timedelta():
            seconds = int(value.total_seconds())
            return f'`"{seconds // 60}m"`' if seconds % 60 == 0 else f'`"{seconds}s"`'
        case str():
            return f'`"{value}"`'
    return f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(document())
