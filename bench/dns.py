"""What watching the DNS costs: every check of many domains against a name server on the same machine.

Beside it stand, of the same zones in the same run, a bare loop that asks the same questions and makes nothing of the
answers (the limit), and checkdmarc, each domain after the other as it works. On loopback an answer takes no time; since
none does on the Internet, both are also run with a way to the server that takes 10 ms.

    python -m bench.dns [--domains 1000 10000] [--peer PYTHON]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path

import aiodns
import msgspec
import uvloop

from agent.dns.answer import Answer, Question
from agent.dns.ares import TYPES
from agent.dns.resolver import Resolver
from agent.dns.watch import Watch
from agent.suffix import registered_domain
from bench.relay import relay
from bench.zones import Server, name, serving, subject

LOOKS = 16  # domains looked at at once
PEER = Path(".venv/bench/bin/python")
SAMPLE = 200  # domains that the peer checks
DELAY = 0.01  # seconds


class Run(msgspec.Struct):
    """One round of all checks of all domains. ``stall`` is the longest time between two turns of the event loop."""

    domains: int
    seconds: float
    cpu: float
    asked: list[Question]
    at_server: int
    memory: float
    stall: list[float]
    findings: Counter[str]

    @property
    def rate(self) -> float:
        return self.domains / self.seconds


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--domains", type=int, nargs="+", default=[1000, 10_000], help="how many are watched")
    options.add_argument("--peer", type=Path, default=PEER, help="a Python that has checkdmarc")
    chosen = options.parse_args()
    sys.setswitchinterval(0.001)  # as the agent does
    registered_domain("example.com")  # reads its list once
    print(f"Python {sys.version.split()[0]}; every check of each domain once, name server (Knot) on the same machine")
    for count in chosen.domains:
        with serving(count) as server:
            run = uvloop.run(watched(server, server.address, count))
            bare = uvloop.run(bare_loop(server.address, run.asked))
            report(run, bare)
            if count == chosen.domains[0]:
                against_peer(server, chosen.peer, min(count, SAMPLE), run)


def report(run: Run, bare: tuple[float, float]) -> None:
    seconds, cpu = bare
    count = run.domains
    if set(run.findings) != {"ok"}:
        print(f"  not everything is in order: {dict(run.findings)}")
    print(f"\n{count:,} domains, {sum(run.findings.values()) / count:.0f} findings each")
    print(f"  through the watch      {run.rate:>8,.0f} domains/s   {1e3 * run.cpu / count:.2f} ms of CPU a domain")
    print(f"                         {run.at_server / count:>8.1f} questions a domain came to the server")
    print(f"                         {run.memory / count:>8.1f} KiB of memory a domain, findings included")
    print(f"                         {1e3 * run.stall[0]:>8.0f} ms at most between two turns of the event loop, "
          f"{1e3 * run.stall[1]:.0f} ms at most of work")  # fmt: skip
    print(f"  bare, same questions   {count / seconds:>8,.0f} domains/s   {1e3 * cpu / count:.2f} ms of CPU a domain")
    print(f"  ratio to bare          {seconds / run.seconds:>8.2f} by the clock, {cpu / run.cpu:.2f} by CPU")


def against_peer(server: Server, python: Path, count: int, run: Run) -> None:
    if not python.exists():
        print(f"  checkdmarc             not installed in {python}: make bench")
        return
    print(
        f"\ncheckdmarc, the first {count} of the same domains (it checks less: no DKIM, no reverse names, no streams)"
    )
    for delay in (0.0, DELAY):
        with relay(server.address, delay) as address:
            ours = uvloop.run(watched(server, address, count))
            before = server.asked()
            done = subprocess.run(
                [str(python), "-P", "bench/peer.py", address, *map(name, range(count))],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            theirs = count / json.loads(done.stdout)["seconds"]
            questions = (server.asked() - before) / count
        way = f"an answer takes {1e3 * delay:.0f} ms" if delay else "an answer takes no time"
        print(f"  {way:<24} {theirs:>6,.1f} domains/s   {questions:.1f} questions")
        ratio, came = ours.rate / theirs, ours.at_server / count
        print(f"  {'through the watch':<24} {ours.rate:>6,.1f} domains/s   {came:.1f} questions   ratio {ratio:.1f}")


class Counting(Resolver):
    """Notes what is asked."""

    def __init__(self, server: str) -> None:
        super().__init__([server], timeout=5.0, concurrency=256)
        self.asked: list[Question] = []

    def ask(self, question: Question) -> Awaitable[Answer]:
        self.asked.append(question)
        return super().ask(question)


async def watched(server: Server, address: str, count: int) -> Run:
    gc.collect()
    memory = resident()
    resolver = Counting(address)
    watch = Watch(resolver, [subject(n) for n in range(count)], interval=86_400.0, rate=1e9)
    queue = iter(range(count))
    stall = [0.0, 0.0]

    async def worker() -> None:
        for n in queue:
            await watch.check_now(name(n))

    watching = asyncio.create_task(turning(stall))
    questions, cpu, begun = server.asked(), time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(LOOKS)))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    watching.cancel()
    asked = resolver.asked
    resolver.asked = []
    return Run(
        count, seconds, cpu, asked, server.asked() - questions, resident() - memory, stall,
        Counter(w.finding.verdict.value for w in watch.findings()),
    )  # fmt: skip


async def turning(longest: list[float]) -> None:
    """By the clock, which counts what else runs on the machine, and by the CPU that the loop's own work took."""
    while True:
        begun, worked = time.perf_counter(), time.thread_time()
        await asyncio.sleep(0.001)
        longest[0] = max(longest[0], time.perf_counter() - begun - 0.001)
        longest[1] = max(longest[1], time.thread_time() - worked)


def resident() -> float:
    """KiB of memory in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


async def bare_loop(server: str, questions: list[Question]) -> tuple[float, float]:
    """Seconds by the clock and of CPU. What c-ares has no type for is asked as TXT, which costs it the same."""
    resolver = aiodns.DNSResolver(nameservers=[server], timeout=5.0)
    queue = iter(questions)

    async def worker() -> None:
        for question in queue:
            try:
                await resolver.query_dns(question.name, question.type if question.type in TYPES else "TXT")
            except aiodns.error.DNSError:
                continue

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(64)))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    await resolver.close()
    return seconds, cpu


if __name__ == "__main__":
    main()
