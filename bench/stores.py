"""What the two stores carry on this machine, alone and under the whole agent, in the same run.

Commits of 10,000 new events, one in a hundred a bounce, then the same again, all known. PostgreSQL is a server of
the run's own, with fsync; it, the agent and the load share the machine. Quote the ratios.

    python -m bench.stores [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from agent.events import BounceClass, Event, Kind
from agent.ledger.base import Batch, Cell, Ledger, Server
from agent.ledger.postgres import PostgresLedger
from agent.ledger.sqlite import SqliteLedger
from bench.__main__ import batches
from tests.servers.postgres import PASSWORD, Postgres, postgres

KEY = b"k" * 40
COMMIT = 10_000
CELL = Cell("example.com", "sendgrid", "", "gmail")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a tenth of the load, to see that it runs")
    quick = options.parse_args().quick
    with postgres(shared_buffers="256MB", max_wal_size="2GB") as server:
        for name in ("alone", "writers", "agent"):
            server.create(name)
        asyncio.run(alone(server, 4 if quick else 40))
        print("\nThe whole agent on SQLite:")
        batches(30 if quick else 400)
        print("The whole agent on PostgreSQL:")
        batches(30 if quick else 400, {"url": server.url("agent"), "password": PASSWORD, "identity_key": KEY.decode()})


async def alone(server: Postgres, commits: int) -> None:
    """Both stores without anything before them; PostgreSQL with four writers too."""
    work = _commits(commits)
    with tempfile.TemporaryDirectory() as folder:
        embedded = SqliteLedger(Path(folder, "ledger.db"), KEY)
        base = await _measure("SQLite", [embedded], work, 0.0)
        await embedded.close()
    for name, database, writers in (("PostgreSQL", "alone", 1), ("PostgreSQL, 4 writers", "writers", 4)):
        ledgers = [PostgresLedger(Server(server.url(database), PASSWORD), KEY) for _ in range(writers)]
        await _measure(name, ledgers, work, base)
        await asyncio.gather(*(one.close() for one in ledgers))


async def _measure(name: str, ledgers: Sequence[Ledger], work: list[list[Batch]], base: float) -> float:
    rates = []
    for _ in ("new", "known"):
        left = iter(work)

        async def one(ledger: Ledger, left: object = left) -> None:
            for commit in left:  # type: ignore[attr-defined]
                await ledger.apply(commit, commit[0].received_at)

        start = time.perf_counter()
        await asyncio.gather(*(one(ledger) for ledger in ledgers))
        rates.append(len(work) * COMMIT / (time.perf_counter() - start))
    ratio = f"   ratio {rates[0] / base:.2f}" if base else ""
    print(f"  {name:24} {rates[0]:>10,.0f} new events/s   {rates[1]:>10,.0f} known ones/s{ratio}")
    return rates[0]


def _commits(number: int) -> list[list[Batch]]:
    rng, now = random.Random(1), time.time()
    ledger = PostgresLedger(Server(""), KEY)  # for its hashes
    out = []
    for n in range(number):
        events = []
        for i in range(COMMIT):
            at, message = now - rng.random() * 600, f"m{n}-{i}"
            if i % 100:
                events.append(Event(Kind.DELIVERED, at, "a@example.net", message))
            else:
                events.append(Event(Kind.BOUNCED, at, "a@example.net", message, bounce_class=BounceClass.HARD))
        cells, identities = [CELL] * COMMIT, ledger.identify("sendgrid", events)
        out.append([Batch("sg", "sendgrid", "sendgrid", now, events, cells, identities)])
    return out


if __name__ == "__main__":
    main()
