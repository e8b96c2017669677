"""Owns the clusters that are measured: made quickly, changed in known ways, every page as PostgreSQL wrote it."""

from pathlib import Path

from pgrecall.postgres.binaries import Binaries
from pgrecall.postgres.scratch import ScratchServer

PGBENCH_SCALE_BYTES = 16_500_000
"""Of one unit of pgbench's scale at fillfactor 90, with its index."""
ROWS_AT_ONCE = 50_000
FILES_AT_ONCE = 5_000
FILL = """
insert into docs
select i, md5(i::text)::uuid, timestamptz '2026-01-01 00:00:00Z' + i * interval '7 s', 0,
       (select string_agg(substr(md5((i * 31 + k * k * (i %% 97))::text), 1, 3 + k %% 7), ' ')
        from generate_series(1, 40) k),
       jsonb_build_object('customer', i %% 50000, 'status', (array['new', 'paid', 'sent', 'done'])[1 + i %% 4],
           'amount', (i * 7919 %% 1000000) / 100.0, 'tags', jsonb_build_array('t' || i %% 13, 't' || i %% 101),
           'address', jsonb_build_object('street', md5((i %% 9000)::text), 'city', 'city ' || i %% 700))
from generate_series(%s::bigint, %s::bigint) i
"""
CHANGE = """
update {table} set {column} = {column} + 1 where {key} in (
    select page::bigint * (select max({key}) from {table}) / {pages} + 1
    from generate_series(0, {pages} - 1) page order by random() limit {changed})
"""
FILES = """
do $$ begin
    for i in {first}..{last} loop
        execute format('create table many.t%s as select n, md5((n * %s)::text)::uuid as u, n * %s::bigint as b '
                       'from generate_series(1, %s) n', i, i, i, 100 + hashint4(i) & 1023);
    end loop;
end $$
"""


def new_server(binaries: Binaries, pgdata: Path) -> ScratchServer:
    """Checksums on; nothing works in the background that the tools did not ask for."""
    server = ScratchServer(binaries, pgdata).initdb()
    server.configure(
        {
            "shared_buffers": "512MB",
            "max_wal_size": "8GB",
            "checkpoint_timeout": "1h",
            "autovacuum": "off",
            "fsync": "on",
            "synchronous_commit": "off",
            "max_locks_per_transaction": 1000,
            "summarize_wal": "on",
            "jit": "off",
            "max_parallel_maintenance_workers": 1,
        }
    )
    return server.start()


def fill(server: ScratchServer, wanted_bytes: int) -> None:
    """A third pgbench, the rest a table with text, JSON and three indexes."""
    scale = max(1, round(wanted_bytes / 3 / PGBENCH_SCALE_BYTES))
    server.run("pgbench", "-i", "-q", "-F", "90", "-s", str(scale))
    server.execute(
        "create table docs (id bigint, ref uuid, made timestamptz, seen int, body text, data jsonb) "
        "with (fillfactor = 90)"
    )
    rows = 0
    start = database_bytes(server)
    with server.connect() as connection:
        while True:
            connection.execute(FILL, (rows + 1, rows + ROWS_AT_ONCE))
            rows += ROWS_AT_ONCE
            if start + (database_bytes(server) - start) * 1.15 >= wanted_bytes:  # the rest will be indexes
                break
    server.execute(
        "alter table docs add primary key (id)",
        "create index on docs (ref)",
        "create index on docs ((data ->> 'customer'), made)",
        "vacuum (freeze, analyze)",
        "checkpoint",
    )


def fill_files(server: ScratchServer, count: int) -> None:
    """`count` tables of one file each, 8 to 64 KiB."""
    server.execute("create schema many")
    for first in range(1, count + 1, FILES_AT_ONCE):
        server.execute(FILES.format(first=first, last=min(first + FILES_AT_ONCE - 1, count)))
    server.execute("checkpoint")


def change_pages(server: ScratchServer, percent: float) -> int:
    """Update one row in each of `percent` of the pages of both large tables, chosen at random; the number of pages.

    Vacuumed at once: what hint bits and pruning change belongs to this change, not to the next one.
    """
    changed = 0
    for table, key, column in (("pgbench_accounts", "aid", "abalance"), ("docs", "id", "seen")):
        pages = server.value(f"select pg_relation_size('{table}') / current_setting('block_size')::int")
        count = max(1, round(pages * percent / 100))
        server.execute(
            CHANGE.format(table=table, key=key, column=column, pages=pages, changed=count), f"vacuum {table}"
        )
        changed += count
    server.execute("checkpoint")
    return changed


def database_bytes(server: ScratchServer) -> int:
    return int(server.value("select pg_database_size(current_database())"))
