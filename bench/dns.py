"""What watching the DNS costs: every check of many domains against a local name server.

Beside it stands a bare loop that asks the same questions.

    python -m bench.dns [--domains 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import socket
import sys
import time
from base64 import b64encode
from collections import Counter
from multiprocessing.connection import Connection

import aiodns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import uvloop
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.dns.answer import Answer, Question
from agent.dns.ares import TYPES
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Subject
from agent.dns.resolver import Resolver
from agent.dns.watch import Watch

ESP = "v=spf1 ip4:192.0.2.0/24 -all"
KEY = "v=DKIM1; p=" + b64encode(
    generate_private_key(65537, 2048).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode("ascii")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--domains", type=int, default=1000, help="how many are watched")
    count = options.parse_args().domains
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        uvloop.run(measure(ours.recv(), count))
    finally:
        server.kill()
        server.join()


class Counting(Resolver):
    """Notes what is asked."""

    def __init__(self, server: str) -> None:
        super().__init__([server], timeout=5.0)
        self.asked: list[Question] = []

    async def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        return await super().ask(question)


async def measure(server: str, count: int) -> None:
    """One round of all checks of all domains, then the same questions bare."""
    domains = [f"d{i}.test" for i in range(count)]
    # Those that need nothing but a name server that c-ares can ask.
    checks = {name: CHECKS[name] for name in ("spf", "dkim", "dmarc", "mx", "ptr")}
    resolver = Counting(server)
    watch = Watch(
        resolver, [Subject(d, ("s1",), ("192.0.2.1",)) for d in domains], interval=86_400.0, rate=1e9, checks=checks
    )
    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    queue = iter(domains)

    async def worker() -> None:
        for domain in queue:
            await watch.check_now(domain)

    await asyncio.gather(*(worker() for _ in range(16)))
    seconds = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_SELF)
    await resolver.aclose()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    bare = await bare_loop(server, [q for q in resolver.asked if not q.server and q.type in TYPES])
    said = Counter(f"{f.finding.check} {f.finding.reason}" for f in watch.findings())
    asked, memory = len(resolver.asked) / count, (after.ru_maxrss - before.ru_maxrss) / count
    print(
        f"Python {sys.version.split()[0]}; {count:,} domains, five checks of each once, name server on the same machine"
    )
    print(f"  findings: {', '.join(sorted(said))}")
    print(f"  through the watch     {count / seconds:>9,.0f} domains/s   {asked:.1f} questions a domain")
    print(f"                        {1e3 * cpu / count:>9.2f} ms of CPU a domain   {memory:.1f} KiB more a domain")
    print(f"  bare, same questions  {count / bare:>9,.0f} domains/s   ratio {bare / seconds:.2f}")


async def bare_loop(server: str, questions: list[Question]) -> float:
    """Seconds that the same questions take with nothing made of the answers."""
    resolver = aiodns.DNSResolver(nameservers=[server], timeout=5.0)
    queue = iter(questions)

    async def worker() -> None:
        for question in queue:
            try:
                await resolver.query_dns(question.name, question.type)
            except aiodns.error.DNSError:
                continue

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(64)))
    seconds = time.perf_counter() - begun
    await resolver.close()
    return seconds


def serve(pipe: Connection) -> None:
    """Answer for ``test`` and everything in it, in a process of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        pipe.send(f"127.0.0.1:{s.getsockname()[1]}")
        known: dict[bytes, bytes] = {}
        while True:
            data, peer = s.recvfrom(4096)
            # What follows the id is the same for the same question, or nearly: EDNS cookies are left out.
            query = dns.message.from_wire(data)
            question = query.question[0]
            key = f"{question.name} {question.rdtype} {query.edns}".lower().encode()
            if key not in known:
                known[key] = respond(query).to_wire()[2:]
            s.sendto(data[:2] + known[key], peer)


def respond(query: dns.message.Message) -> dns.message.Message:
    """Records as a domain in good order has them."""
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    question = query.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    labels, kind = name.split("."), dns.rdatatype.to_text(question.rdtype)
    apex = len(labels) == 2 and labels[1] == "test"
    held: dict[str, str] = {}
    if name == "_spf.esp.test":
        held = {"TXT": f'"{ESP}"'}
    elif apex:
        held = {
            "TXT": '"v=spf1 include:_spf.esp.test -all"', "MX": "10 mx.esp.test.", "NS": "ns.esp.test.",
            "A": "192.0.2.9", "SOA": "ns.esp.test. h.esp.test. 1 60 60 60 60",
        }  # fmt: skip
    elif labels[0] == "_dmarc" and len(labels) == 3:
        held = {"TXT": f'"v=DMARC1; p=reject; rua=mailto:r@{name[7:]}"'}
    elif name.startswith("s1._domainkey."):
        held = {"TXT": " ".join(f'"{KEY[i : i + 250]}"' for i in range(0, len(KEY), 250))}
    elif name == "mail.esp.test":
        held = {"A": "192.0.2.1"}
    elif name.endswith(".esp.test"):
        held = {"A": "192.0.2.2"}
    elif name == "1.2.0.192.in-addr.arpa":
        held = {"PTR": "mail.esp.test."}
    elif "test" not in labels[-1:]:
        response.set_rcode(dns.rcode.NXDOMAIN)
    if kind in held:
        response.answer.append(dns.rrset.from_text(question.name, 300, "IN", kind, held[kind]))
    return response


if __name__ == "__main__":
    main()
