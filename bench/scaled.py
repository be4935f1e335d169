"""What several agents on one store take in: the same signed batches to one agent with a store of its own, to one, two
and four on PostgreSQL, and through an edge and a broker to a core on PostgreSQL, until all of them are counted.

Load generator, agents, database and broker share this machine's cores, so that what is added to a full machine adds
nothing: what scales is shown by the CPU time of an event, by who spends it. Every process of a kind is summed, those
that PostgreSQL starts too.

    python -m bench.scaled [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path

from agent.simulate import SIMULATORS, Scenario, Traffic
from bench.__main__ import counted, post_all
from bench.bus import agent, folder, mosquitto
from tests.servers.postgres import PASSWORD, Postgres, postgres

SIZE = 1000
GOAL = 100_000
BUS = f"key: {'b' * 40}"
Signed = list[tuple[bytes, dict[str, str]]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a tenth of the load, to see that it runs")
    count = 20 if options.parse_args().quick else 300
    broker = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not broker:
        sys.exit("the benchmark needs a broker: apt-get install mosquitto")
    keys = SIMULATORS["sendgrid"].new_credentials()
    source = f"{{name: sg, provider: sendgrid, verification_key: '{keys.settings['verification_key']}'}}"
    scenario = Scenario(
        start=time.time() - 600, duration=590, messages=count * SIZE, deferred=0.02, opened=0, complained=0,
        unsubscribed=0, late=0, duplicates=0, domains={"example.com": 1.0},
    )  # fmt: skip
    simulator = SIMULATORS["sendgrid"]
    bodies = [r.body for r in simulator.requests(Traffic(scenario, simulator.VOICE), SIZE)][:count]
    signed = [(body, simulator.sign(body, keys.signing, time.time())) for body in bodies]
    print(f"SendGrid, {count} batches of {SIZE:,}, signature verified, committed; {os.cpu_count()} cores for all of it")
    print("What that time would carry on the same cores with nothing else on them is in the last column.")
    print(f"{'':32}{'events/s':>10}   µs of CPU an event: agents, database, broker, all   could be")

    with folder() as place, agent(place, "alone", f"sources: [{source}]") as (port, pid):
        row("embedded, SQLite", *run(signed, [port], [port], [[pid], [], []]))
    for replicas in (1, 2, 4):
        with ExitStack() as stack:
            place, server = stack.enter_context(folder()), stack.enter_context(database())
            agents = [
                stack.enter_context(agent(place, f"core-{n}", f"sources: [{source}]", store(server)))
                for n in range(replicas)
            ]
            ports = [port for port, _ in agents]
            found = run(signed, ports, ports, [[pid for _, pid in agents], [server.pid], []])
        row(f"{replicas} on PostgreSQL", *found)
    with ExitStack() as stack:
        place, server = stack.enter_context(folder()), stack.enter_context(database())
        bus_port, bus_pid = stack.enter_context(mosquitto(place, broker))
        bus = f"url: 'mqtt://127.0.0.1:{bus_port}', {BUS}"
        relayed = "sources: [{name: sg, provider: sendgrid, relayed: true}]"
        core, core_pid = stack.enter_context(
            agent(place, "core", f"bus: {{mode: core, name: core, {bus}}}\n{relayed}", store(server))
        )
        edge, edge_pid = stack.enter_context(
            agent(place, "edge", f"bus: {{mode: edge, name: edge, {bus}}}\nsources: [{source}]")
        )
        time.sleep(1)  # Until both are connected.
        found = run(signed, [edge], [core], [[core_pid, edge_pid], [server.pid], [bus_pid]])
    row("edge, broker, core on PostgreSQL", *found)


def row(name: str, rate: float, cpu: list[float]) -> None:
    agents, database, broker = cpu
    could = (os.cpu_count() or 1) * 1e6 / sum(cpu)
    reached = "" if rate >= GOAL else f"   below {GOAL:,}"
    print(
        f"{name:<32}{rate:>10,.0f}   {agents:>26.1f} {database:9.1f} {broker:7.1f} {sum(cpu):4.1f} {could:>10,.0f}"
        f"{reached}", flush=True,
    )  # fmt: skip


def run(signed: Signed, to: list[int], at: list[int], pids: list[list[int]]) -> tuple[float, list[float]]:
    """Events counted a second, and the microseconds of CPU that each took, by kind of process. Posted to the agents
    ``to`` in turn, counted at the agents ``at``."""
    parts: list[Signed] = [[] for _ in to]
    for part, request in zip(cycle(parts), signed, strict=False):
        part.append(request)

    async def post() -> None:
        each = 24 // len(to)
        await asyncio.gather(
            *(post_all(port, "/webhooks/sg", part, connections=each) for port, part in zip(to, parts, strict=True))
        )

    before = [sum(map(cpu_of_tree, kind)) for kind in pids]
    start = time.perf_counter()
    asyncio.run(post())
    while (found := sum(counted(port + 1) for port in at)) < len(signed) * SIZE:
        if time.perf_counter() - start > 300:
            sys.exit(f"only {found:,} events were counted")
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    events = len(signed) * SIZE
    cpu = [sum(map(cpu_of_tree, kind)) - old for kind, old in zip(pids, before, strict=True)]
    return events / seconds, [1e6 * spent / events for spent in cpu]


def cpu_of_tree(pid: int) -> float:
    """CPU seconds of a process, of its children, and of those that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    own = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(cpu_of_tree(int(child)) for child in children)


@contextmanager
def database() -> Iterator[Postgres]:
    """Durable as in life, with the memory of a small server."""
    with postgres(shared_buffers="256MB", max_wal_size="2GB") as server:
        server.create("mail")
        yield server


def store(server: Postgres) -> str:
    return f"url: '{server.url('mail')}', password: {PASSWORD}"


if __name__ == "__main__":
    main()
