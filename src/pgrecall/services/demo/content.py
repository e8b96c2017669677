"""What tables hold: a fingerprint of every table of a database, and two such sets compared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

from pgrecall.postgres.scratch import ScratchServer


@dataclass(frozen=True)
class Fingerprint:
    """A table's content: equal fingerprints are equal rows, in whatever order. Size in bytes, with indexes."""

    rows: int
    digest: str
    size: int = 0

    def same_rows(self, other: "Fingerprint | None") -> bool:
        return other is not None and (self.rows, self.digest) == (other.rows, other.digest)


@dataclass(frozen=True, kw_only=True)
class TableResult:
    """One table at the chosen moment, after the accident, and as it was recovered. None: it is not there."""

    name: str
    before: Fingerprint | None
    after_accident: Fingerprint | None
    recovered: Fingerprint | None

    @property
    def matches(self) -> bool:
        return self.before is not None and self.before.same_rows(self.recovered)

    @property
    def was_lost(self) -> bool:
        """The accident destroyed or changed it."""
        return self.before is not None and not self.before.same_rows(self.after_accident)

    @property
    def difference(self) -> str | None:
        """What is wrong with the recovered table, for people; None when it matches."""
        if self.matches:
            return None
        if self.recovered is None:
            return "is missing"
        if self.before is None:
            return "was not there at the chosen moment"
        if self.before.rows != self.recovered.rows:
            return f"has {self.recovered.rows:,} rows instead of {self.before.rows:,}"
        return f"has {self.before.rows:,} rows as before, but other content"


# How values are written must not depend on what a server, a role or an environment was set to.
_FIXED_OUTPUT = (
    "set local timezone = 'UTC'",
    "set local datestyle = 'ISO, MDY'",
    "set local intervalstyle = 'postgres'",
    "set local extra_float_digits = 1",
    "set local bytea_output = 'hex'",
    "set local search_path = pg_catalog",
)
# Read the tables themselves: an index that came back wrong must not speak for them.
_NO_INDEXES = ("set local enable_indexscan = off", "set local enable_indexonlyscan = off")
_TABLES = """
select n.nspname, c.relname, pg_total_relation_size(c.oid)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm') and c.relpersistence = 'p'
  and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_'
order by 1, 2
"""
# The sum over all rows of 2 × 60 bits of each row's MD5: independent of the order, sensitive to duplicates.
_CONTENT = """
select count(*),
       coalesce(sum(('x' || substr(md5(t::text), 1, 15))::bit(60)::bigint), 0)::text || ':' ||
       coalesce(sum(('x' || substr(md5(t::text), 16, 15))::bit(60)::bigint), 0)::text
from only {table} as t
"""


def fingerprints(server: ScratchServer) -> dict[str, Fingerprint]:
    """schema.table → content, of every permanent table, in one snapshot."""
    return dict(_fingerprints(server))


def _fingerprints(server: ScratchServer) -> Iterator[tuple[str, Fingerprint]]:
    with server.connect(autocommit=False) as connection:
        connection.execute("set transaction isolation level repeatable read")
        for statement in (*_FIXED_OUTPUT, *_NO_INDEXES):
            connection.execute(statement.encode())
        for schema, name, size in connection.execute(_TABLES).fetchall():
            query = sql.SQL(_CONTENT).format(table=sql.Identifier(schema, name))
            row = connection.execute(query).fetchone()
            assert row is not None, "an aggregate gives one row"
            yield f"{schema}.{name}", Fingerprint(row[0], row[1], size)


def compare(
    before: Mapping[str, Fingerprint], after_accident: Mapping[str, Fingerprint], recovered: Mapping[str, Fingerprint]
) -> tuple[TableResult, ...]:
    """Every table that was there before or is there now, by name."""
    return tuple(
        TableResult(
            name=name,
            before=before.get(name),
            after_accident=after_accident.get(name),
            recovered=recovered.get(name),
        )
        for name in sorted({*before, *recovered})
    )
