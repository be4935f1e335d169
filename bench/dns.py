"""What watching the DNS costs: every check of many domains against a name server on the same machine.

Each domain is looked at twice: the first look finds nothing known, a repeated one is what the agent does all day.
Beside each stands, of the same zones in the same run, a bare loop of aiodns that asks the same questions and makes
nothing of the answers (the limit); and beside all, the same looks at answers that are there already, which is what
concluding and publishing alone cost. checkdmarc is run on the same zones, each domain after the other as it works. On
loopback an answer takes no time; since none does on the Internet, both are also run with a way to the server that takes
10 ms.

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
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiodns
import msgspec
import uvloop

from agent.dns.answer import Answer, Question
from agent.dns.ares import TYPES
from agent.dns.resolver import Resolver
from agent.dns.watch import Watch
from agent.ledger.process import settle_garbage
from agent.suffix import registered_domain
from bench.relay import relay
from bench.zones import Server, name, serving, subject

LOOKS = 16  # domains looked at at once
PEER = Path(".venv/bench/bin/python")
SAMPLE = 200  # domains that the peer checks
DELAY = 0.01  # seconds
_TURN = 0.005  # seconds between two looks at the event loop: each of them costs it some time


class Run(msgspec.Struct):
    """One round of all checks of all domains. ``stall`` is the longest time between two turns of the event loop,
    ``at_server`` the questions that came to the server, ``memory`` KiB more than before the first round."""

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
    sys.setswitchinterval(0.001)  # as the agent does, and below
    registered_domain("example.com")  # reads its list once
    settle_garbage()
    print(f"Python {sys.version.split()[0]}; every check of each domain once, name server (Knot) on the same machine")
    for count in chosen.domains:
        with serving(count) as server:
            runs = uvloop.run(watched(server, server.address, count))
            print(f"\n{count:,} domains, {sum(runs[0].findings.values()) / count:.0f} findings each")
            for kind, run in zip(("first looks", "repeated looks"), runs, strict=True):
                report(kind, run, uvloop.run(bare_loop(server.address, run.asked)))
            if count == chosen.domains[0]:
                sample = min(count, SAMPLE)
                known = uvloop.run(answers(server.address, sample))
                cpu = min(1e3 * run.cpu / sample for run in uvloop.run(looked(Knowing(known), sample)))
                print(f" on answers that are there already       {cpu:.2f} ms of CPU a domain")
                against_peer(server, chosen.peer, sample)


def report(kind: str, run: Run, bare: tuple[float, float]) -> None:
    seconds, cpu = bare
    count = run.domains
    print(f" {kind}")
    if set(run.findings) != {"ok"}:
        print(f"  not everything is in order: {dict(run.findings)}")
    print(f"  through the watch      {run.rate:>8,.0f} domains/s   {1e3 * run.cpu / count:.2f} ms of CPU a domain")
    print(f"                         {run.at_server / count:>8.1f} questions a domain came to the server")
    print(f"                         {run.memory / count:>8.1f} KiB of memory a domain, findings included")
    print(f"                         {1e3 * run.stall[0]:>8.0f} ms at most between two turns of the event loop, "
          f"{1e3 * run.stall[1]:.0f} ms at most of work")  # fmt: skip
    print(f"  bare, same questions   {count / seconds:>8,.0f} domains/s   {1e3 * cpu / count:.2f} ms of CPU a domain")
    print(f"  ratio to bare          {seconds / run.seconds:>8.2f} by the clock, {cpu / run.cpu:.2f} by CPU")


def against_peer(server: Server, python: Path, count: int) -> None:
    if not python.exists():
        print(f"  checkdmarc             not installed in {python}: make bench")
        return
    print(
        f"\ncheckdmarc, the first {count} of the same domains (it checks less: no DKIM, no reverse names, no streams)"
    )
    for delay in (0.0, DELAY):
        with relay(server.address, delay) as address:
            ours, _ = uvloop.run(watched(server, address, count))
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


class Knowing(Resolver):
    """Has all the answers."""

    def __init__(self, answers: dict[Question, Answer]) -> None:
        super().__init__()
        self._answers = answers
        self.asked: list[Question] = []

    def ask(self, question: Question) -> Awaitable[Answer]:
        loop = asyncio.get_running_loop()
        answered = loop.create_future()
        loop.call_soon(answered.set_result, self._answers[question])
        return answered


async def answers(server: str, count: int) -> dict[Question, Answer]:
    """To all questions of all looks."""
    resolver = Counting(server)
    for _ in await looked(resolver, count):
        pass
    questions = list(dict.fromkeys(resolver.asked))
    known = {question: await resolver.ask(question) for question in questions}
    await resolver.aclose()
    return known


async def watched(server: Server, address: str, count: int) -> list[Run]:
    """The first looks, and the repeated ones."""
    resolver = Counting(address)
    before = server.asked()
    runs = await looked(resolver, count, server.asked)
    await resolver.aclose()
    for run in runs:
        run.at_server, before = run.at_server - before, run.at_server
    return runs


async def looked(resolver: Counting | Knowing, count: int, came: Callable[[], int] = int) -> list[Run]:
    gc.collect()
    memory = resident()
    watch = Watch(resolver, [subject(n) for n in range(count)], interval=86_400.0, rate=1e9)
    runs = []
    for _ in range(2):
        queue, stall, already = iter(range(count)), [0.0, 0.0], len(resolver.asked)

        async def worker(queue: Iterator[int]) -> None:
            for n in queue:
                await watch.check_now(name(n))

        watching = asyncio.create_task(turning(stall))
        cpu, begun = time.process_time(), time.perf_counter()
        await asyncio.gather(*(worker(queue) for _ in range(LOOKS)))
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        watching.cancel()
        runs.append(Run(
            count, seconds, cpu, resolver.asked[already:], came(), resident() - memory, stall,
            Counter(w.finding.verdict.value for w in watch.findings()),
        ))  # fmt: skip
    return runs


async def turning(longest: list[float]) -> None:
    """By the clock, which counts what else runs on the machine, and by the CPU that the loop's own work took."""
    while True:
        begun, worked = time.perf_counter(), time.thread_time()
        await asyncio.sleep(_TURN)
        longest[0] = max(longest[0], time.perf_counter() - begun - _TURN)
        longest[1] = max(longest[1], time.thread_time() - worked - _TURN)


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
