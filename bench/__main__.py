"""What the hot path carries on this machine: signed webhooks over HTTP to committed counts.

Every figure stands beside two others of the same run: the limit (decoding the same bytes and nothing else, on one
core) and, for single events, a peer (the same HTTP server reading and decoding the body, keeping nothing). Absolute
numbers are this machine's; quote the ratios. Cost grows linearly with events; it does not grow with what is stored.

    python -m bench [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from agent.simulate import SIMULATORS, Scenario, Traffic
from bench.parsing import parsing

WRK = """
local n = tonumber(os.getenv("BENCH_OFFSET"))
local at = os.getenv("BENCH_AT")
local head = os.getenv("BENCH_HEAD")
local threads = 0
function setup(thread) thread:set("id", threads); threads = threads + 1 end
function request()
  n = n + 1
  local body = '{"RecordType":"Delivery","ServerID":23,"MessageStream":"outbound","MessageID":"00000000-0000-' .. id ..
    '-0000-' .. n .. '","Recipient":"user' .. n .. '@gmail.com","Tag":"welcome","DeliveredAt":"' .. at ..
    '","Details":"smtp;250 2.0.0 OK queued as 4fB9Xk","Metadata":{"campaign":"spring","customer":"c-' .. n .. '"}}'
  return wrk.format("POST", nil, {["Authorization"] = head, ["Content-Type"] = "application/json"}, body)
end
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a tenth of the load, to see that it runs")
    quick = options.parse_args().quick
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; load generator on the same machine\n")
    batches(30 if quick else 400)
    singles(1 if quick else 8)
    parsing(200 if quick else 4000)


def batches(count: int, store: dict[str, str] | None = None) -> None:
    """SendGrid batches of 1,000 events. ``store`` are its settings, if it is not the embedded one."""
    size = 1000
    keys = SIMULATORS["sendgrid"].new_credentials()
    scenario = Scenario(
        start=time.time() - 600, duration=590, messages=count * size, deferred=0.02, opened=0, complained=0,
        unsubscribed=0, late=0, duplicates=0, domains={"example.com": 1.0},
    )  # fmt: skip
    simulator = SIMULATORS["sendgrid"]
    bodies = []
    for request in simulator.requests(Traffic(scenario, simulator.VOICE), size):
        bodies.append(request.body)
        if len(bodies) == count:
            break
    limit = decode_rate(bodies) * size
    with agent(keys.settings, store) as (port, pid):
        signed = [(body, simulator.sign(body, keys.signing, time.time())) for body in bodies]
        cpu = cpu_seconds(pid)
        seconds = asyncio.run(post_all(port, "/webhooks/sendgrid", signed, connections=24))
        cpu = cpu_seconds(pid) - cpu
        committed = counted(port + 1)
    events = count * size
    rate = events / seconds
    print(f"SendGrid, batches of {size:,}, signature verified, committed ({committed:,} of {events:,} events counted)")
    print(f"  through the whole path   {rate:>12,.0f} events/s   {1e6 * cpu / events:.1f} µs of CPU an event")
    print(f"  limit: decoding alone    {limit:>12,.0f} events/s   ratio {rate / limit:.3f}\n")


def singles(seconds: int) -> None:
    """Postmark single events."""
    wrk = shutil.which("wrk")
    if not wrk:
        sys.exit("the single-event benchmark needs wrk: apt-get install wrk")
    body = (
        b'{"RecordType":"Delivery","ServerID":23,"MessageStream":"outbound","MessageID":"00000000-0000-0-0000-1",'
        b'"Recipient":"user1@gmail.com","Tag":"welcome","DeliveredAt":"2026-01-01T00:00:00Z",'
        b'"Details":"smtp;250 2.0.0 OK queued as 4fB9Xk","Metadata":{"campaign":"spring","customer":"c-1"}}'
    )
    limit = decode_rate([body] * 50_000)
    with peer() as port:
        bare, _ = run_wrk(wrk, port, "/", seconds, offset=10_000_000)
    with agent({}) as (port, pid):
        cpu = cpu_seconds(pid)
        rate, latency = run_wrk(wrk, port, "/webhooks/postmark", seconds, offset=20_000_000)
        cpu = cpu_seconds(pid) - cpu
        committed = counted(port + 1)
    print(f"Postmark, single events, authenticated, committed ({committed:,} events counted)")
    print(
        f"  through the whole path   {rate:>12,.0f} requests/s  99 % within {latency}   "
        f"{1e6 * cpu / max(1, committed):.0f} µs of CPU a request"
    )
    print(f"  peer: read and decode    {bare:>12,.0f} requests/s  ratio {rate / bare:.3f}")
    print(f"  limit: decoding alone    {limit:>12,.0f} bodies/s    ratio {rate / limit:.4f}")


def decode_rate(bodies: list[bytes]) -> float:
    """Bodies decoded a second, nothing else done; the best of three runs."""
    decode = msgspec.json.decode
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for body in bodies:
            decode(body)
        best = max(best, len(bodies) / (time.perf_counter() - start))
    return best


@contextmanager
def agent(
    sendgrid: object, store: dict[str, str] | None = None, *, fill: Callable[[Path], None] = lambda _: None
) -> Iterator[tuple[int, int]]:
    """The real program on a store that is empty but for what ``fill`` writes; its public port (the
    private one is the next) and its process id."""
    directory = tempfile.mkdtemp(prefix="mailvitals-bench-", dir=os.environ.get("BENCH_DIR"))
    port = free_ports()
    key = sendgrid["verification_key"] if isinstance(sendgrid, dict) and sendgrid else ""
    source = f"  - {{name: sendgrid, provider: sendgrid, verification_key: '{key}'}}\n" if key else ""
    Path(directory, "mailvitals.yaml").write_text(
        f"listen: {{public: '127.0.0.1:{port}', private: '127.0.0.1:{port + 1}'}}\n"
        f"store: {json.dumps(store or {'url': f'sqlite:///{directory}/ledger.db'})}\n"
        f"sources:\n{source}  - {{name: postmark, provider: postmark, username: u, password: p, domain: example.com}}\n"
    )
    fill(Path(directory, "ledger.db"))
    process = subprocess.Popen([sys.executable, "-m", "agent", "run", "--config", f"{directory}/mailvitals.yaml"])
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port + 1}/readyz", timeout=1).read()
                break
            except OSError:
                time.sleep(0.1)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        shutil.rmtree(directory)


@contextmanager
def peer() -> Iterator[int]:
    """An aiohttp server that reads, decodes and forgets."""
    port = free_ports()
    code = (
        "import asyncio, uvloop, msgspec\nfrom aiohttp import web\n"
        "async def handle(request):\n    msgspec.json.decode(await request.read())\n    return web.Response()\n"
        "async def main():\n    runner = web.ServerRunner(web.Server(handle, access_log=None))\n"
        f"    await runner.setup()\n    await web.TCPSite(runner, '127.0.0.1', {port}).start()\n"
        "    await asyncio.sleep(600)\nuvloop.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        for _ in range(100):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def free_ports() -> int:
    """The first of two neighbouring free ports."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def run_wrk(wrk: str, port: int, path: str, seconds: int, *, offset: int) -> tuple[float, str]:
    """Requests a second and the 99th percentile; exits on any error or answer that is not 2xx."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK)
        script.flush()
        environment = {
            **os.environ,
            "BENCH_OFFSET": str(offset),
            "BENCH_AT": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 5)),
            "BENCH_HEAD": "Basic " + b64encode(b"u:p").decode(),
        }
        out = subprocess.run(
            [wrk, "-t1", "-c64", f"-d{seconds}s", "--latency", "-s", script.name, f"http://127.0.0.1:{port}{path}"],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit(out)
    rate = float(out.split("Requests/sec:")[1].split()[0])
    return rate, out.split("99%")[1].split()[0]


async def post_all(port: int, path: str, signed: list[tuple[bytes, dict[str, str]]], *, connections: int) -> float:
    """Seconds until every request is answered 200; bare sockets, so that the generator costs little."""
    queue = iter(signed)

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body, headers in queue:
            head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n"
            head += "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                sys.exit(f"not taken: {answer!r}")
            length = next(
                (int(x.split(b":")[1]) for x in answer.split(b"\r\n") if x.lower().startswith(b"content-length")), 0
            )
            if length:
                await reader.readexactly(length)
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    return time.perf_counter() - start


def counted(port: int) -> int:
    """Events the agent says it counted."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    return round(sum(float(x.split()[-1]) for x in text.splitlines() if x.startswith("mailvitals_events_total{")))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
