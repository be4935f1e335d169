"""A month of mail through five ESPs, with two outages of the agent, counted exactly."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from agent.clock import DAY, HOUR
from agent.simulate import Scenario
from agent.simulate.send import Progress, Sent, simulate
from tests.servers.agent import Agent
from tests.stack.replay import STREAMS, counted, pairs, part, settings, wanted

# Mails a month, and reports a request where the vendor sends many at once.
MAILS = {"sendgrid": 260_000, "sparkpost": 160_000, "unisender_go": 50_000, "mailgun": 15_000, "postmark": 15_000}
BATCH = 150
OUTAGE = 4.0  # seconds without an agent
MAILBOXES = {
    "gmail.com": 40.0, "outlook.com": 14.0, "hotmail.com": 6.0, "yahoo.com": 12.0, "icloud.com": 8.0, "gmx.de": 3.0,
    "web.de": 2.0, "orange.fr": 2.0, "proton.me": 1.0,
}  # fmt: skip


def _month(mails: int, now: float, seed: int) -> Scenario:
    """30 days of ordinary mail: some bounces, three per cent of copies, some reports hours late."""
    return Scenario(
        start=now - 30 * DAY, duration=29 * DAY, until=now, messages=mails, seed=seed, duplicates=0.03,
        changed_ids=0.5, late=0.03, lateness=12 * HOUR, opened=0.15, hard=0.006, soft=0.004, block=0.003,
        asynchronous=0.001, domains={"example.com": 3.0, "news.example.org": 1.0}, mailboxes=MAILBOXES,
    )  # fmt: skip


@pytest.mark.timeout(900)
async def test_a_month_of_half_a_million_mails_is_counted_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = pairs(list(MAILS))
    agent = Agent(tmp_path, settings(keys, log={"level": "info", "format": "json"}))
    now, begun = time.time(), time.monotonic()
    outages = 0
    agent.start()
    reached = dict.fromkeys(MAILS, 0)  # reports taken so far

    def progress(provider: str) -> Progress:
        def note(sent: Sent) -> None:
            reached[provider] = sent.reports

        return note

    try:
        sending = {
            provider: asyncio.create_task(
                simulate(
                    provider, _month(mails, now, n), agent.webhook(provider), keys[provider].signing,
                    batch=BATCH, concurrency=12, attempts=100, progress=progress(provider),
                )
            )
            for n, (provider, mails) in enumerate(MAILS.items(), 1)
        }  # fmt: skip
        # The first outage hits every sender, however fast the machine: all have begun, none is far. The second comes
        # when the first of them is near its middle.
        for kill, due in (
            (True, lambda: all(reached[p] > mails * 0.02 for p, mails in MAILS.items())),
            (False, lambda: any(reached[p] > mails for p, mails in MAILS.items())),
        ):
            while not due():
                await asyncio.sleep(0.05)
            assert not all(task.done() for task in sending.values()), "the outage hit no load"
            if kill:
                agent.kill()
            else:
                await asyncio.to_thread(agent.stop)
            await asyncio.sleep(OUTAGE)
            await asyncio.to_thread(agent.start)
            outages += 1
        sent: dict[str, Sent] = {provider: await task for provider, task in sending.items()}
    finally:
        assert agent.stop() == 0
    seconds = time.monotonic() - begun

    for provider, one in sent.items():
        assert one.failed == 0, provider
        assert one.retries > 0, f"{provider} saw no outage"
    want = wanted({provider: one.truth for provider, one in sent.items()})
    got = (await counted(agent.database))[DAY]
    mailboxes = sorted({cell.mailbox_provider for cell, _ in want})
    names = [
        *({"provider": name} for name in MAILS),
        *({"stream": name} for name in (*STREAMS, "")),
        *({"mailbox_provider": name} for name in mailboxes),
    ]
    rows = []
    for name in names:
        mine, right = part(got, **name), part(want, **name)
        bounced = sum(mine[c] for c in ("hard", "soft", "block", "undetermined"))
        (label,) = name.items()
        rows.append(
            f"{label[0]} {label[1] or '(none)'}".ljust(28)
            + f" {mine['delivered']:>9,} {bounced:>8,} {mine['complained']:>6,} "
            f"{sum(mine.values()):>9,}   {'exact' if mine == right else 'WRONG'}"
        )
    reports = sum(one.truth.reports for one in sent.values())
    copies = sum(one.truth.copies for one in sent.values())
    retries = sum(one.retries for one in sent.values())
    with capsys.disabled():
        print(
            f"\n{sum(MAILS.values()):,} mails of 30 days, {reports:,} reports ({copies:,} copies), {outages} outages,",
            f"{retries:,} requests retried, {seconds:.0f} s in all",
            f"{'':<28} {'delivered':>9} {'bounced':>8} {'compl.':>6} {'all':>9}",
            *rows,
            sep="\n",
            file=sys.stderr,  # which is shown from a process of pytest-xdist too
        )
    assert len(mailboxes) > 5
    assert got == want
