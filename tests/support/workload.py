"""A seeded random workload: rows and whole objects come and go as they do in production, the same for the same seed."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from pgrecall.postgres.scratch import ScratchServer

MOST_TABLES = 12
MOST_DATABASES = 4
ROWS_AT_ONCE = 400
KINDS = ("", "", "", "unlogged")


@dataclass
class Workload:
    """Steps of SQL on a server. Tablespaces are made below `tablespaces`, none without.

    One seed gives one sequence of statements, as long as nobody else changes the objects made here.
    """

    server: ScratchServer
    seed: int
    tablespaces: Path | None = None
    done: list[str] = field(default_factory=list)
    _tables: dict[str, list[str]] = field(default_factory=lambda: {"postgres": []})
    _spaces: list[str] = field(default_factory=list)
    _made: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        rows: list[tuple[int, Callable[[], None]]] = [
            (20, self._insert),
            (16, self._update),
            (10, self._delete),
            (8, self._create_table),
            (3, self._drop_table),
            (3, self._truncate),
            (6, self._vacuum),
            (2, self._vacuum_full),
            (4, self._create_index),
            (2, self._checkpoint),
            (2, self._switch_segment),
            (1, self._rolled_back),
            (2, self._create_database),
            (1, self._drop_database),
            (1, self._create_tablespace),
            (2, self._move_table),
        ]
        self._weights, self._actions = zip(*rows, strict=True)

    def run(self, steps: int) -> "Workload":
        """So many steps, one after the other."""
        for _ in range(steps):
            self.step()
        return self

    def step(self) -> None:
        (action,) = self._random.choices(self._actions, self._weights)
        action()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Steps in the background while the block runs; what failed there is raised at its end."""
        ending = threading.Event()
        failures: list[psycopg.Error] = []

        def work() -> None:
            try:
                while not ending.is_set():
                    self.step()
            except psycopg.Error as error:
                failures.append(error)

        thread = threading.Thread(target=work, name=f"workload {self.seed}")
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()
        if failures:
            last = self.done[-1] if self.done else "nothing"
            raise AssertionError(f"workload with seed {self.seed} failed after: {last}") from failures[0]

    # rows -----------------------------------------------------------------------------------------------------------
    def _insert(self) -> None:
        database, table = self._some_table()
        count = self._random.randint(1, ROWS_AT_ONCE)
        # long, incompressible notes now and then, so that TOAST has something to hold
        length = 200 if self._random.random() < 0.1 else self._random.randint(0, 3)
        self._execute(
            database,
            f"insert into {table} (n, note, doc) select i, (select coalesce(string_agg(md5(i::text || j), ''), '') "
            f"from generate_series(1, {length}) j), jsonb_build_object('i', i, 'h', md5(i::text)) "
            f"from generate_series(1, {count}) i",
        )

    def _update(self) -> None:
        database, table = self._some_table()
        divisor = self._random.randint(2, 50)
        self._execute(database, f"update {table} set n = n + 1, note = md5(n::text) where id % {divisor} = 0")

    def _delete(self) -> None:
        database, table = self._some_table()
        divisor = self._random.randint(2, 20)
        self._execute(database, f"delete from {table} where id % {divisor} = {self._random.randrange(divisor)}")

    def _rolled_back(self) -> None:
        database, table = self._some_table()
        self._execute(database, f"begin; update {table} set n = 0; rollback")

    # tables ---------------------------------------------------------------------------------------------------------
    def _create_table(self) -> None:
        database = self._random.choice(sorted(self._tables))
        if len(self._tables[database]) >= MOST_TABLES:
            return self._drop_table()
        table, kind = self._name("t"), self._random.choice(KINDS)
        space = (
            f" tablespace {self._random.choice(self._spaces)}" if self._spaces and self._random.random() < 0.3 else ""
        )
        columns = "id bigint generated always as identity primary key, n int, note text, doc jsonb"
        self._execute(database, f"create {kind} table {table} ({columns}){space}")
        self._tables[database].append(table)
        return None

    def _drop_table(self) -> None:
        database, table = self._some_table()
        self._execute(database, f"drop table {table}")
        self._tables[database].remove(table)

    def _truncate(self) -> None:
        database, table = self._some_table()
        self._execute(database, f"truncate {table}")

    def _vacuum(self) -> None:
        database, table = self._some_table()
        options = self._random.choice(("", "(analyze)", "(freeze)", "(index_cleanup on, truncate on)"))
        self._execute(database, f"vacuum {options} {table}")

    def _vacuum_full(self) -> None:
        database, table = self._some_table()
        self._execute(database, f"vacuum full {table}")

    def _create_index(self) -> None:
        database, table = self._some_table()
        how = self._random.choice(("(n)", "(md5(note))", "using gin (doc)", "using hash (n)"))
        self._execute(database, f"create index on {table} {how}")

    def _move_table(self) -> None:
        if self._spaces:
            database, table = self._some_table()
            self._execute(database, f"alter table {table} set tablespace {self._random.choice(self._spaces)}")

    # larger things --------------------------------------------------------------------------------------------------
    def _create_database(self) -> None:
        if len(self._tables) >= MOST_DATABASES:
            return
        database, strategy = self._name("d"), self._random.choice(("wal_log", "file_copy"))
        source = self._random.choice([name for name in sorted(self._tables) if name != "postgres"] or ["template0"])
        self._execute("postgres", f"create database {database} template {source} strategy {strategy}")
        self._tables[database] = list(self._tables.get(source, []))

    def _drop_database(self) -> None:
        names = [name for name in sorted(self._tables) if name != "postgres"]
        if names:
            database = self._random.choice(names)
            self._execute("postgres", f"drop database {database} with (force)")
            del self._tables[database]

    def _create_tablespace(self) -> None:
        if self.tablespaces is not None and len(self._spaces) < 3:
            name = self._name("s")
            (self.tablespaces / name).mkdir(parents=True, mode=0o700)
            self._execute("postgres", f"create tablespace {name} location '{self.tablespaces / name}'")
            self._spaces.append(name)

    def _checkpoint(self) -> None:
        self._execute("postgres", "checkpoint")

    def _switch_segment(self) -> None:
        self._execute("postgres", "select pg_switch_wal()")

    # inside ---------------------------------------------------------------------------------------------------------
    def _some_table(self) -> tuple[str, str]:
        if not any(self._tables.values()):
            self._create_table()
        places = [(database, table) for database in sorted(self._tables) for table in self._tables[database]]
        return self._random.choice(places)

    def _name(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}{self._made}"

    def _execute(self, database: str, statement: str) -> None:
        self.done.append(f"{database}: {statement}")
        self.server.execute(*statement.split("; "), dbname=database)
