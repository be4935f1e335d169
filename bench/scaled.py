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
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

from agent.simulate import SIMULATORS, Scenario, Traffic
from bench.__main__ import counted, free_ports, post_all
from tests.servers.postgres import PASSWORD, Postgres, postgres

SIZE = 1000
GOAL = 100_000
LIMIT = 60.0  # seconds for one row; three to five are usual
SECRETS = f"identity_key: {'i' * 40}"
BUS = f"key: {'b' * 40}"
Signed = list[tuple[bytes, dict[str, str]]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a tenth of the load, to see that it runs")
    count = 30 if options.parse_args().quick else 300
    broker = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not broker:
        sys.exit("the benchmark needs a broker: apt-get install mosquitto")
    print(f"SendGrid, {count} batches of {SIZE:,}, signature verified, committed; {os.cpu_count()} cores for all of it")
    keys = SIMULATORS["sendgrid"].new_credentials()
    source = f"{{name: sg, provider: sendgrid, verification_key: '{keys.settings['verification_key']}'}}"
    scenario = Scenario(
        start=time.time() - 600, duration=590, messages=count * SIZE, deferred=0.02, opened=0, complained=0,
        unsubscribed=0, late=0, duplicates=0, domains={"example.com": 1.0},
    )  # fmt: skip
    simulator = SIMULATORS["sendgrid"]
    bodies = []
    for request in simulator.requests(Traffic(scenario, simulator.VOICE), SIZE):
        bodies.append(request.body)
        if len(bodies) == count:
            break
    signed = [(body, simulator.sign(body, keys.signing, time.time())) for body in bodies]
    print("µs of CPU an event, by who spends it; the last column is what that would carry were no core ever idle")
    print(f"{'':32}{'events/s':>10}{'agents':>10}{'database':>10}{'broker':>8}{'load':>6}{'all':>7}{'could be':>10}")

    with folder() as place, agent(place, "alone", f"sources: [{source}]") as (port, pid):
        run("embedded, SQLite", signed, [port], [port], [[pid], [], []])
    for replicas in (1, 2, 4):
        with ExitStack() as stack:
            place, server = stack.enter_context(folder()), stack.enter_context(database())
            agents = [
                stack.enter_context(agent(place, f"core-{n}", f"sources: [{source}]", store(server)))
                for n in range(replicas)
            ]
            ports = [port for port, _ in agents]
            run(f"{replicas} on PostgreSQL", signed, ports, ports, [[pid for _, pid in agents], [server.pid], []])
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
        pids = [[core_pid, edge_pid], [server.pid], [bus_pid]]
        run("edge, broker, core on PostgreSQL", signed, [edge], [core], pids)


def run(name: str, signed: Signed, to: list[int], at: list[int], pids: list[list[int]]) -> None:
    """Post to the agents ``to`` in turn until all is counted at the agents ``at``, and print the row. ``pids`` are
    those of agents, database and broker."""
    events = len(signed) * SIZE

    async def post() -> None:
        queues = [signed[n :: len(to)] for n in range(len(to))]
        posts = [
            post_all(port, "/webhooks/sg", part, connections=24 // len(to))
            for port, part in zip(to, queues, strict=True)
        ]
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*posts)

    before, own, start = [sum(map(cpu_of_tree, kind)) for kind in pids], time.process_time(), time.perf_counter()
    try:
        uvloop.run(post())
    except TimeoutError:
        sys.exit(f"{name}: not all was taken within {LIMIT:.0f} s")
    own = time.process_time() - own
    while (found := sum(counted(port + 1) for port in at)) < events:
        if time.perf_counter() - start > LIMIT:
            sys.exit(f"{name}: only {found:,} of {events:,} events were counted within {LIMIT:.0f} s")
        time.sleep(0.05)
    rate = events / (time.perf_counter() - start)
    spent = [sum(map(cpu_of_tree, kind)) - old for kind, old in zip(pids, before, strict=True)]
    agents, database, broker, load = (1e6 * seconds / events for seconds in (*spent, own))
    total = agents + database + broker + load
    print(
        f"{name:<32}{rate:>10,.0f}{agents:>10.1f}{database:>10.1f}{broker:>8.1f}{load:>6.1f}{total:>7.1f}"
        f"{(os.cpu_count() or 1) * 1e6 / total:>10,.0f}{'' if rate >= GOAL else f'   below {GOAL:,}'}", flush=True,
    )  # fmt: skip


def cpu_of_tree(pid: int) -> float:
    """CPU seconds of a process, of its children, and of those that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    own = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(cpu_of_tree(int(child)) for child in children)


@contextmanager
def folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="mailvitals-bench-", dir=os.environ.get("BENCH_DIR")))
    yield place
    shutil.rmtree(place)


@contextmanager
def database() -> Iterator[Postgres]:
    """Durable as in life, with the memory of a small server."""
    with postgres(shared_buffers="256MB", max_wal_size="2GB") as server:
        server.create("mail")
        yield server


def store(server: Postgres) -> str:
    return f"url: '{server.url('mail')}', password: {PASSWORD}"


@contextmanager
def agent(place: Path, name: str, settings: str, store: str = "") -> Iterator[tuple[int, int]]:
    """The real program, on SQLite unless ``store`` says otherwise; its public port (the private one is the next) and
    its process id."""
    port = free_ports()
    store = store or f"url: 'sqlite:///{place}/{name}.db'"
    config = place / f"{name}.yaml"
    config.write_text(
        f"listen: {{public: '127.0.0.1:{port}', private: '127.0.0.1:{port + 1}', drain: 1ms}}\n"
        f"store: {{{store}, {SECRETS}}}\nlog: {{level: warning}}\n{settings}\n"
    )
    command = [sys.executable, "-m", "agent", "run", "--config", str(config)]
    with serving(command, f"http://127.0.0.1:{port + 1}/readyz") as pid:
        yield port, pid


@contextmanager
def mosquitto(place: Path, program: str) -> Iterator[tuple[int, int]]:
    port = free_ports()
    config = place / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_type none\n")
    with serving([program, "-c", str(config)], "") as pid:
        yield port, pid


@contextmanager
def serving(command: list[str], ready: str) -> Iterator[int]:
    process = subprocess.Popen(command)
    try:
        for _ in range(200 if ready else 0):
            try:
                urllib.request.urlopen(ready, timeout=1).read()
                break
            except OSError:
                time.sleep(0.1)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


if __name__ == "__main__":
    main()
