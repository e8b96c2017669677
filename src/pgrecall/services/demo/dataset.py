"""The demo's data: a shop beside pgbench's bank; how it is filled, how work goes on in it, and the accident."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pgrecall.clock import Clock
from pgrecall.errors import ScratchFailed
from pgrecall.postgres.scratch import ScratchServer

PGBENCH_BYTES_PER_SCALE = 15_700_000  # measured, with indexes; as the next two
BYTES_PER_ORDER = 460
BYTES_PER_CUSTOMER = 200
BANK_SHARE, ORDERS_SHARE, CUSTOMERS_SHARE = 0.55, 0.40, 0.05
BACKGROUND_RATE = 100  # transactions per second while backups run
POLL_SECONDS = 0.02
LOAD_NAME = "pgbench"

_TABLES = (
    "create table customers (id bigint primary key, name text not null, email text not null, profile jsonb not null)",
    "create table orders (id bigint primary key, customer bigint not null, placed_at timestamptz not null,"
    " details jsonb not null, note text not null)",
)
_CUSTOMERS = """
insert into customers
select g, 'Customer ' || g, 'customer' || g || '@shop.example',
       jsonb_build_object('city', (array['Oslo', 'Lima', 'Kyoto', 'Graz', 'Accra', 'Turin', 'Quito', 'Tartu'])
                                  [1 + (hashint8(g) & 7)],
                          'newsletter', hashint8(g) & 8 = 0, 'token', md5(g::text))
from generate_series(%s::bigint, %s::bigint) as g
"""
_ORDERS = """
with words as (select array[
    'Please ring twice', 'Leave it with the neighbour', 'This is a gift', 'No plastic, please', 'Invoice by mail',
    'Deliver after six', 'The usual size', 'Repeat of last month', 'Fragile', 'Back door, second floor',
    'Call before you come', 'Weekend only', 'Add a card', 'Two parcels are fine', 'Keep it cool', 'As before'] as w)
insert into orders
select g, 1 + (hashint8extended(g, 1) & 1073741823) %% %s,
       timestamptz '2026-01-01 00:00:00+00' + g * interval '7 s',
       jsonb_build_object(
         'reference', md5(g::text), 'currency', 'EUR', 'state', 'placed',
         'items', jsonb_build_array(
            jsonb_build_object('sku', 'A-' || (hashint8extended(g, 2) & 8191), 'count', 1 + (hashint8(g) & 7),
                               'cents', hashint8extended(g, 3) & 65535),
            jsonb_build_object('sku', 'B-' || (hashint8extended(g, 4) & 8191), 'count', 1 + (hashint8(g) & 3),
                               'cents', hashint8extended(g, 5) & 65535))),
       w[1 + (hashint8extended(g, 6) & 15)] || '. ' || w[1 + (hashint8extended(g, 7) & 15)] || '. ' ||
       w[1 + (hashint8extended(g, 8) & 15)] || '. Signed ' || md5((g * 31)::text) || '.'
from generate_series(%s::bigint, %s::bigint) as g, words
"""


@dataclass(frozen=True)
class Dataset:
    """How much of everything makes about `size` bytes."""

    scale: int
    orders: int
    customers: int

    @classmethod
    def of_size(cls, size: int) -> "Dataset":
        return cls(
            scale=max(1, round(size * BANK_SHARE / PGBENCH_BYTES_PER_SCALE)),
            orders=max(1000, int(size * ORDERS_SHARE / BYTES_PER_ORDER)),
            customers=max(100, int(size * CUSTOMERS_SHARE / BYTES_PER_CUSTOMER)),
        )


def fill(server: ScratchServer, dataset: Dataset) -> None:
    """All tables, and their statistics."""
    server.run("pgbench", "-i", "-q", "-s", str(dataset.scale))
    server.execute(*_TABLES)
    _run(server, _CUSTOMERS, 1, dataset.customers)
    _run(server, _ORDERS, dataset.customers, 1, dataset.orders)
    server.execute("vacuum analyze customers, orders")


def work(server: ScratchServer, dataset: Dataset) -> int:
    """Business goes on: new orders, changed ones, deleted ones, a few hundred bank transactions; how many commits."""
    first = int(server.value("select max(id) + 1 from orders"))
    new = max(100, dataset.orders // 100)
    steps = 10
    for step in range(steps):
        begin, end = first + step * new // steps, first + (step + 1) * new // steps - 1
        _run(server, _ORDERS, dataset.customers, begin, end)
    oldest = int(server.value("select min(id) from orders"))
    server.execute(
        f'update orders set details = details || \'{{"state": "shipped"}}\' where id >= {first - new}',
        f"delete from orders where id < {oldest + new // 10}",
        f"update customers set profile = profile || '{{\"newsletter\": true}}' where id <= {dataset.customers // 50}",
    )
    transactions = 250
    server.run("pgbench", "-n", "-c", "2", "-t", str(transactions))
    return steps + 3 + 2 * transactions


@contextlib.contextmanager
def background_load(server: ScratchServer, clock: Clock) -> Iterator[None]:
    """pgbench's transactions at a steady rate while the block runs; afterwards nobody writes any more."""
    argv = [str(server.binaries.program("pgbench")), "-n", "-c", "2", "-R", str(BACKGROUND_RATE), "-T", "3600"]
    load = subprocess.Popen(
        argv, env=server.client_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    try:
        yield
        if load.poll() is not None:
            raise ScratchFailed(f"pgbench ended early, with status {load.returncode}")
    finally:
        load.terminate()
        load.wait()
    _wait_until_quiet(server, clock)


def _wait_until_quiet(server: ScratchServer, clock: Clock) -> None:
    """What a client that is gone had begun may still commit."""
    while server.value("select count(*) from pg_stat_activity where application_name = %s", (LOAD_NAME,)):
        clock.sleep(POLL_SECONDS)


ACCIDENT = (
    "DROP TABLE orders",
    "UPDATE customers SET email = 'test@example.com'",
)


def accident(server: ScratchServer) -> None:
    """What somebody types into the wrong window."""
    server.execute(*ACCIDENT)


def _run(server: ScratchServer, query: str, *parameters: Any) -> None:
    server.query(query, parameters)
