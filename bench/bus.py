"""What a broker between agents costs: the same signed batches to one agent with a store, and through an edge, a broker
and a core until the core has counted them. All on this machine, which shares its cores among them; quote the ratio.

    python -m bench.bus [--quick]
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
from contextlib import contextmanager
from pathlib import Path

from agent.simulate import SIMULATORS, Scenario, Traffic
from bench.__main__ import counted, cpu_seconds, free_ports, post_all

SIZE = 1000
SECRETS = f"identity_key: {'i' * 40}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a tenth of the load, to see that it runs")
    count = 20 if options.parse_args().quick else 200
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
    print(f"SendGrid, {count} batches of {SIZE:,}, signature verified, committed")

    with folder() as place, agent(place, "alone", f"sources: [{source}]") as (port, pid):
        seconds, cpu = run(signed, port, port, [pid])
    alone = count * SIZE / seconds
    print(f"  one agent                {alone:>12,.0f} events/s   {1e6 * cpu / count / SIZE:.1f} µs of CPU an event")

    with folder() as place, mosquitto(place, broker) as (bus_port, bus_pid):
        bus = f"url: 'mqtt://127.0.0.1:{bus_port}', key: {'b' * 40}"
        relayed = "sources: [{name: sg, provider: sendgrid, relayed: true}]"
        with (
            agent(place, "core", f"bus: {{mode: core, name: core, {bus}}}\n{relayed}") as (core, core_pid),
            agent(place, "edge", f"bus: {{mode: edge, name: edge, {bus}}}\nsources: [{source}]") as (edge, edge_pid),
        ):
            time.sleep(1)  # Until both are connected.
            seconds, cpu = run(signed, edge, core, [core_pid, edge_pid, bus_pid])
    rate = count * SIZE / seconds
    print(
        f"  edge, broker, core       {rate:>12,.0f} events/s   {1e6 * cpu / count / SIZE:.1f} µs of CPU an event   "
        f"ratio {rate / alone:.3f}"
    )


def run(signed: list[tuple[bytes, dict[str, str]]], to: int, at: int, pids: list[int]) -> tuple[float, float]:
    """Seconds until everything that was posted to one agent is counted at another, and the CPU seconds it took."""
    cpu = sum(map(cpu_seconds, pids))
    start = time.perf_counter()
    asyncio.run(post_all(to, "/webhooks/sg", signed, connections=24))
    while (found := counted(at + 1)) < len(signed) * SIZE:
        if time.perf_counter() - start > 300:
            sys.exit(f"only {found:,} events were counted")
        time.sleep(0.05)
    return time.perf_counter() - start, sum(map(cpu_seconds, pids)) - cpu


@contextmanager
def folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="mailvitals-bench-", dir=os.environ.get("BENCH_DIR")))
    yield place
    shutil.rmtree(place)


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
