"""What an evaluation costs where there is much to evaluate, and how much later the event loop gets its turn meanwhile.

A thousand domains with five providers, eight mailbox providers and three streams each, a month of hours, summed as the
daemon has the store sum them. The parts' verdicts are those of the slow look, which is made at one domain after the
other.

    python -m bench.evaluate [--quick]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from agent.clock import DAY, HOUR
from agent.ledger.base import MEASURES
from agent.ledger.sqlite import SqliteLedger, load_or_create_key
from agent.vitals.evaluate import Row
from agent.vitals.phases import PHASES
from agent.vitals.rates import Counts
from agent.vitals.rounds import Rounds, recent
from agent.vitals.scopes import explain, judge_parts
from agent.vitals.trends import by_part
from agent.vitals.verdicts import targets
from bench.__main__ import agent, cpu_seconds, run_wrk

NOW = 1_750_000_123.0
ESPS, MAILBOXES, STREAMS = 5, 8, 3
EVERY = 5  # seconds, vitals.interval
PARTS = ESPS + MAILBOXES + STREAMS


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a twentieth of the domains, to see that it runs")
    count = 50 if options.parse_args().quick else 1000
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    rounds(count)
    looks()
    beside_requests(count, 1 if count < 1000 else 8)
    beside_the_loop(min(count, 100))


class Site:
    """The roll-ups of a site as ``evaluate`` is given them."""

    def __init__(self, domains: int, names: str = "d{}.example") -> None:
        random = Random(1)
        self.names = [names.format(n) for n in range(domains)]
        cells = [
            (name, f"esp{i % ESPS}", f"stream{i % STREAMS}", f"mbp{i % MAILBOXES}")
            for name in self.names for i in range(MAILBOXES)
        ]  # fmt: skip
        bands = (60, 4 * HOUR, 20 * HOUR)  # one in each of the windows of minutes
        self.minutes: list[Row] = [
            (int(NOW - age) // 60 * 60, cell, measure, random.randrange(1, top))
            for cell in cells for age in bands for measure, top in (("delivered", 900), ("hard", 6), ("soft", 9))
        ]  # fmt: skip
        self.hours: list[Row] = [
            (int(NOW - age) // HOUR * HOUR, cell, measure, random.randrange(1, top))
            for cell in cells for age in (HOUR, 20 * DAY)
            for measure, top in (("delivered", 20_000), ("hard", 90), ("complained", 5))
        ]  # fmt: skip
        first = int(NOW // HOUR) * HOUR
        self.domain_hours: list[Row] = [
            (first - h * HOUR, (name, "", "", ""), measure, random.randrange(1, top))
            for name in self.names for h in range(720) for measure, top in (("delivered", 140), ("hard", 2))
        ]  # fmt: skip
        self.days: list[Row] = [
            (int(NOW // DAY - d) * DAY, (name, "", "", ""), "delivered", 1600) for name in self.names for d in range(62)
        ]
        self.rounds = Rounds()
        self.phases = dict.fromkeys(self.names, PHASES["growth"])
        self.turn = 0
        self.begins = NOW // 60 * 60 + 180

    def round(self, now: float, *, all_hours: bool = False) -> float:
        """CPU seconds of one evaluation, of the rows that the daemon would have read for it."""
        whole, first = self.rounds.whole(now), recent(now, HOUR)
        since = 0 if all_hours else first
        domain_hours = [row for row in self.domain_hours if row[0] >= since]
        day = 0 if whole else recent(now, DAY)
        days = [row for row in self.days if row[0] >= day]
        minutes = [row for row in self.minutes if whole or row[0] >= first]
        hours = [row for row in self.hours if whole or row[0] >= first]
        began = time.thread_time()
        changed = None if whole else self.rounds.changed(now, domain_hours, days)
        if changed is not None and not changed:
            minutes, hours = [], []
        self.rounds.evaluate(
            now,
            self.phases,
            minutes,
            hours,
            days,
            domain_hour_rows=domain_hours,
            domain_hours_since=since,
            changed=changed,
        )
        return time.thread_time() - began

    def change(self, share: float, part: str = "") -> None:
        """One more delivery in the present hour of that share of the domains (others each time), in all their cells or
        in those of one mailbox provider."""
        if not share:
            return
        count = max(1, round(len(self.names) * share))
        changed = {self.names[(self.turn + i) % len(self.names)] for i in range(count)}
        self.turn += count
        newest, day = int(NOW // HOUR) * HOUR, int(NOW // DAY) * DAY

        def more(rows: list[Row], since: int) -> list[Row]:
            return [
                (b, c, m, n + (b >= since and m == "delivered" and c[0] in changed and part in ("", c[3] or part)))
                for b, c, m, n in rows
            ]

        self.minutes, self.hours = more(self.minutes, newest - HOUR), more(self.hours, newest - HOUR)
        self.domain_hours, self.days = more(self.domain_hours, newest), more(self.days, day)

    def minute(self, share: float, part: str = "") -> float:
        """CPU seconds of the rounds of one minute, each after a change."""
        spent = 0.0
        self.begins += 60
        for second in range(0, 60, EVERY):
            self.change(share, part)
            spent += self.round(self.begins + second)
        return spent


def rounds(count: int) -> None:
    site = Site(count)
    rows = sum(map(len, (site.minutes, site.hours, site.domain_hours, site.days)))
    print(f"{count:,} domains with {PARTS} parts each, {rows:,} rows: CPU of evaluations")
    print(f"  the first                       {site.round(NOW, all_hours=True):8.2f} s")
    print(f"  all hours read again            {site.round(NOW + 60, all_hours=True):8.2f} s")
    print(f"  of everything, nothing changed  {site.round(NOW + 120):8.2f} s")
    site.change(1.0)
    print(f"  of everything, all changed      {site.round(NOW + 180):8.2f} s")
    print(f"and in a minute, one every {EVERY} seconds, if in each")
    for share, part, name in (
        (0.0, "", "nothing changed"), (0.01, "mbp1", "1 % of the domains, 3 parts"), (0.01, "", "1 %, all parts"),
    ):  # fmt: skip
        print(f"  {name:<30}  {site.minute(share, part):8.2f} s")
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
    with agent({}, fill=lambda path: _fill(path, count)) as (port, pid):
        time.sleep((50 - time.time()) % 60 if seconds > 2 else 0)
        cpu = cpu_seconds(pid)
        busy = run_wrk(wrk, port, "/webhooks/postmark", 2 * seconds, offset=40_000_000)
        cpu = cpu_seconds(pid) - cpu
    print("single webhooks over HTTP")
    print(f"  nothing to evaluate      {calm[0]:8,.0f} requests/s  99 % within {calm[1]}")
    print(f"  beside {count:,} domains     {busy[0]:8,.0f} requests/s  99 % within {busy[1]}   {cpu:.1f} s of CPU\n")


def _fill(path: Path, count: int) -> None:
    site, now = Site(count, names="d{}.test"), int(time.time())
    SqliteLedger(path, load_or_create_key(path.with_name(path.name + ".key")))
    shift = now - int(NOW)
    db = sqlite3.connect(path)
    cells = {cell: n for n, cell in enumerate(dict.fromkeys(row[1] for row in site.minutes), 1)}
    db.executemany(
        "INSERT INTO cell (id, domain, provider, stream, mailbox_provider) VALUES (?, ?, ?, ?, ?)",
        [(n, *cell) for cell, n in cells.items()],
    )
    tables = (60, site.minutes), (HOUR, site.hours), (DAY, site.hours)
    db.executemany(
        "INSERT OR REPLACE INTO rollup VALUES (?, ?, ?, ?, ?)",
        [
            (width, (bucket + shift) // width * width, cells[cell], MEASURES.index(measure), n)
            for width, rows in tables for bucket, cell, measure, n in rows
        ],
    )  # fmt: skip
    db.commit()
    db.close()


def beside_the_loop(count: int) -> None:
    """How late a thread that sleeps and wakes, as the one of the event loop does, gets its turn: alone and while
    evaluations run in another thread of the process (which holds the interpreter for 1 ms at most, as the agent sets
    it). What intake's answers wait for beside that is not the evaluation."""
    sys.setswitchinterval(0.001)
    site = Site(count)
    site.round(NOW, all_hours=True)

    def percentile(seconds: float) -> float:
        waits = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            time.sleep(0.0005)
            waits.append(time.perf_counter() - began - 0.0005)
        return 1000 * sorted(waits)[int(0.99 * len(waits))]

    alone = percentile(3)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            site.minute(0.01)

    beside = threading.Thread(target=work)
    beside.start()
    during = percentile(3)
    stop.set()
    beside.join()
    print("a turn of the loop's thread comes late by (99th percentile)")
    print(f"  alone                    {alone:8.2f} ms")
    print(f"  during evaluations       {during:8.2f} ms")


if __name__ == "__main__":
    main()
