"""What evaluations cost where there is much to evaluate, and how much later the event loop gets its turn meanwhile.

A thousand domains with five providers, eight mailbox providers and three streams each, on a store with a month of their
mail: the rounds of a minute as the daemon makes them, CPU of the agent and of the store's process. How much there is to
do is a matter of how many domains something is counted for: in all minutes of the day alike, so that as much leaves
the windows. The parts' verdicts are those of the slow look, which is made at one domain after the other.

    python -m bench.evaluate [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from agent.clock import DAY, HOUR, MINUTE
from agent.events import Event, Kind
from agent.ledger.base import MEASURES, Batch, Cell
from agent.ledger.process import ProcessLedger
from agent.ledger.sqlite import SqliteLedger, load_or_create_key
from agent.vitals.evaluate import Row
from agent.vitals.phases import PHASES
from agent.vitals.rates import Counts
from agent.vitals.rounds import Rounds
from agent.vitals.scopes import explain, judge_parts
from agent.vitals.sums import Wanted
from agent.vitals.trends import by_part
from agent.vitals.verdicts import targets
from bench.__main__ import agent, cpu_seconds, run_wrk

NOW = 1_750_000_123.0
ESPS, MAILBOXES, STREAMS = 5, 8, 3
EVERY = 5  # seconds, vitals.interval
PARTS = ESPS + MAILBOXES + STREAMS
DELIVERED, HARD = MEASURES.index("delivered"), MEASURES.index("hard")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a twentieth of the domains, to see that it runs")
    quick = options.parse_args().quick
    count = 50 if quick else 1000
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    for an_hour in (7, 60):
        asyncio.run(rounds(count, an_hour))
    looks()
    beside_requests(count, 1 if quick else 8)


def cells(count: int) -> list[Cell]:
    return [
        Cell(f"d{n}.test", f"esp{i % ESPS}", f"stream{i % STREAMS}", f"mbp{i}")
        for n in range(count) for i in range(MAILBOXES)
    ]  # fmt: skip


def fill(path: Path, count: int, an_hour: float, now: float) -> None:
    """A month of ``count`` domains, each with ``an_hour`` mails an hour at times of their own, one in a hundred
    bounced."""
    SqliteLedger(path, load_or_create_key(path.with_name(path.name + ".key")))
    db, random = sqlite3.connect(path), Random(1)
    db.executemany(
        "INSERT INTO cell (id, domain, provider, stream, mailbox_provider) VALUES (?, ?, ?, ?, ?)",
        [(n, *cell) for n, cell in enumerate(cells(count), 1)],
    )
    add = "INSERT INTO rollup VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count"

    def minutes() -> Iterator[tuple[int, int, int, int, int]]:
        for domain in range(count):
            at = now
            while (at := at - random.expovariate(an_hour / HOUR)) > now - DAY - HOUR:
                measure = HARD if random.random() < 0.01 else DELIVERED
                yield (
                    MINUTE,
                    int(at // MINUTE) * MINUTE,
                    1 + domain * MAILBOXES + random.randrange(MAILBOXES),
                    measure,
                    1,
                )

    def longer(width: int, span: int) -> Iterator[tuple[int, int, int, int, int]]:
        mails = an_hour * width / HOUR / MAILBOXES
        for bucket in range(int((now - span) // width) * width, int(now) + 1, width):
            for cell in range(1, count * MAILBOXES + 1):
                for measure, expected in ((DELIVERED, mails), (HARD, mails / 100)):
                    if n := int(expected + random.random()):
                        yield width, bucket, cell, measure, n

    for rows in (minutes(), longer(HOUR, 30 * DAY + HOUR), longer(DAY, 62 * DAY)):
        db.executemany(add, rows)
    db.commit()
    db.close()


class Site:
    """A store that is counted in, and rounds on it, at a time of their own."""

    def __init__(self, ledger: ProcessLedger, count: int) -> None:
        self.ledger, self.rounds = ledger, Rounds(dict.fromkeys((f"d{n}.test" for n in range(count)), PHASES["growth"]))
        self.cells, self.random, self.serial = cells(count), Random(2), 0
        self.turns: list[float] = []

    async def round(self, now: float) -> float:
        """CPU seconds of one, without the store's."""
        spent, answer, heavy = 0.0, None, False
        steps = self.rounds.round(now, await self.ledger.amended())
        while True:
            began, busy = time.thread_time(), time.process_time()
            try:
                wanted = steps.send(answer)
            except StopIteration:
                return spent + time.process_time() - busy
            spent += time.process_time() - busy
            if not heavy:  # What is, is done in a thread.
                self.turns.append(time.thread_time() - began)
            answer, heavy = None, wanted is True
            if isinstance(wanted, Wanted):
                busy = time.process_time()
                answer = await self.ledger.rows(
                    wanted.width, wanted.since, wanted.until, merge=wanted.merge, edges=wanted.edges,
                    by_domain=wanted.by_domain, domains=wanted.domains,
                )  # fmt: skip
                spent += time.process_time() - busy

    async def count(self, now: float, places: Iterable[Cell]) -> None:
        """A mail delivered in each of these cells."""
        own = list(places)
        events = []
        for _ in own:
            self.serial += 1
            events.append(Event(Kind.DELIVERED, now, message_id=str(self.serial), recipient="a@example.net"))
        await self.ledger.apply([Batch("s", "p", "p", now, events, own)], now)


async def rounds(count: int, an_hour: float) -> None:
    """The rounds of some minutes, each domain with so many mails an hour."""
    with tempfile.TemporaryDirectory(prefix="mailvitals-bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        path, now = Path(folder, "ledger.db"), NOW // HOUR * HOUR + 15 * MINUTE
        fill(path, count, an_hour, now)
        ledger = ProcessLedger(path, load_or_create_key(path.with_name(path.name + ".key")))
        await ledger.start()
        try:
            await _rounds(Site(ledger, count), now, count, an_hour)
        finally:
            await ledger.close()


async def _rounds(site: Site, now: float, count: int, an_hour: float) -> None:
    child = site.ledger.process_id
    busy = cpu_seconds(child)
    first = await site.round(now)
    print(f"{count:,} domains with {PARTS} parts each and {an_hour:g} mails an hour: CPU of evaluations")
    print(f"  the first, of everything  {first:8.2f} s   and of the store's process {cpu_seconds(child) - busy:.2f} s")
    for minute in range(4):
        own = stored = 0.0
        changed, site.turns = set(), []
        for _ in range(0, 60, EVERY):
            now += EVERY
            mails = int(count * an_hour * EVERY / HOUR + site.random.random())
            places = site.random.sample(site.cells, min(mails, len(site.cells)))
            await site.count(now, places)
            changed |= {place.domain for place in places}
            busy = cpu_seconds(child)
            own += await site.round(now)
            stored += cpu_seconds(child) - busy
        turns = sorted(site.turns)
        if minute < 2:  # Everybody's turn comes at once, after the first.
            continue
        share, most = len(changed) / count, turns[int(0.99 * len(turns))]
        print(f"  a minute, {share:4.0%} changed    {own:8.2f} s   and of the store's process {stored:.2f} s")
        print(f"    turns of the loop: {len(turns):,}, 99 % within {1000 * most:.1f} ms, all {1000 * turns[-1]:.1f} ms")
    print()


def looks() -> None:
    """The slow look's share of verdicts: all parts of one domain with mail in every hour, and a breach explained."""
    rows = list(_month())
    held = targets(PHASES["growth"], last_event_at=NOW - 60)
    began = time.process_time()
    parts = by_part(rows)
    split = time.process_time() - began
    began = time.process_time()
    found = judge_parts(parts, held, NOW)
    judged = time.process_time() - began
    cells = {cell: Counts(delivered=900, hard=9 if cell[3] == "mbp1" else 2) for _, cell, _, _ in rows}
    began = time.process_time()
    explain(cells, held[0])
    print(f"one domain with {len(parts) - 1} parts, {len(rows):,} rows: CPU of the parts' verdicts ({len(found)})")
    print(f"  splitting the rows       {1000 * split:8.1f} ms")
    print(f"  judging the parts        {1000 * judged:8.1f} ms")
    print(f"  explaining a breach      {1000 * (time.process_time() - began):8.1f} ms\n")


def _month() -> Iterator[Row]:
    random, first = Random(2), int(NOW // HOUR) * HOUR
    for i in range(ESPS * MAILBOXES):
        cell = ("d.example", f"esp{i % ESPS}", f"stream{i % STREAMS}", f"mbp{i % MAILBOXES}")
        for h in range(720):
            yield first - h * HOUR, cell, "delivered", random.randrange(1, 20)
            yield first - h * HOUR, cell, "hard", random.random() < 0.05


def beside_requests(count: int, seconds: int) -> None:
    """The 99th percentile of single webhooks at an agent with nothing to evaluate, and at one whose store has counts of
    so many domains (which no setting names: rates without verdicts), over the turn of a minute, when all are read and
    worked out."""
    wrk = shutil.which("wrk")
    if not wrk:
        sys.exit("this part needs wrk: apt-get install wrk")
    with agent({}) as (port, _):
        calm = run_wrk(wrk, port, "/webhooks/postmark", seconds, offset=20_000_000)
    with agent({}, fill=lambda path: fill(path, count, 7, time.time())) as (port, pid):
        time.sleep((50 - time.time()) % 60 if seconds > 2 else 0)
        cpu = cpu_seconds(pid)
        busy = run_wrk(wrk, port, "/webhooks/postmark", 2 * seconds, offset=40_000_000)
        cpu = cpu_seconds(pid) - cpu
    print("single webhooks over HTTP")
    print(f"  nothing to evaluate      {calm[0]:8,.0f} requests/s  99 % within {calm[1]}")
    print(f"  beside {count:,} domains     {busy[0]:8,.0f} requests/s  99 % within {busy[1]}   {cpu:.1f} s of CPU\n")


if __name__ == "__main__":
    main()
