"""How often what is published misses the truth: the intervals of one look and those of all looks, and ``met``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from statistics import mean

from agent.clock import DAY, HOUR, WEEK
from agent.vitals import bounds
from agent.vitals.anytime import BEGINNINGS, interval
from agent.vitals.late import Days
from agent.vitals.phases import PHASES
from agent.vitals.rates import Counts, total
from agent.vitals.sequence import Course
from agent.vitals.types import WINDOWS, TargetVerdict
from agent.vitals.verdicts import judge, standing, standing_of_days, targets
from bench.senders import NATURES, Nature, hours, independent

BOUNCE, _, COMPLAINT = targets(PHASES["foundation"], last_event_at=0.0)
LIMIT = BOUNCE.met
MONTH = 30 * 24
INTERVALS = (
    ("one look", "24h"), ("one look", "month"), ("any time", "24h"), ("any time", "7d"), ("any time", "month"),
)  # fmt: skip


def coverage(nature: Nature, rate: float, monthly: int, seed: int) -> list[tuple[int, bool]]:
    """One month of looks at the published intervals of a sender with a past, in the order of ``INTERVALS``: of 30
    looks, one a day, how many had an interval that misses the true rate, and whether any look of the month, one an
    hour, had."""
    random, course, month = Random(seed), Course(LIMIT), [0, 0]
    sums = {"24h": [0, 0], "7d": [0, 0], "month": month}
    held = {"24h": deque[tuple[int, int]](), "7d": deque[tuple[int, int]]()}
    daily, ever = [0] * len(INTERVALS), [False] * len(INTERVALS)
    before = 7 * 24 if nature is independent else MONTH  # lumps have to be seen before they can be allowed for
    for h, (failed, mails) in enumerate(hours(random, nature, rate, monthly, before + MONTH)):
        course.take(h * HOUR, len(failed), mails, WEEK)
        for window, kept in held.items():
            kept.append((len(failed), mails))
            x, n = kept.popleft() if len(kept) > WINDOWS[window] // HOUR else (0, 0)
            sums[window] = [sums[window][0] + len(failed) - x, sums[window][1] + mails - n]
        if h < before:
            continue
        month[0], month[1] = month[0] + len(failed), month[1] + mails
        for i, (kind, period) in enumerate(INTERVALS):
            x, n = sums[period]
            if n * rate >= 10 and (x - n * rate) ** 2 < 2 * n * rate * (1 - rate):
                continue  # No interval of 95 % misses what is within 1.4 standard deviations.
            if kind == "one look":
                if ever[i] and h % 24:
                    continue  # It is known already, and these bounds take their time.
                low, high = bounds.lower(x, n), bounds.upper(x, n)
            else:
                low, high = interval(x, n, beginnings=BEGINNINGS[period], dispersion=course.scatter)
            missed = not low <= rate <= high
            daily[i] += missed and h % 24 == 0
            ever[i] |= missed
    return list(zip(daily, ever, strict=True))


def falsely_met(seed: int) -> tuple[bool, bool]:
    """Whether a sender exactly at the limit was ever within it in a month of hourly looks: by the 95 % bound of a day,
    and by the product."""
    random, day, week = Random(seed), deque[tuple[int, int]](maxlen=24), deque[tuple[int, int]](maxlen=168)
    course, by_bound, by_proof = Course(LIMIT), False, False
    for h, (failed, mails) in enumerate(hours(random, independent, LIMIT, 50_000, 24 + MONTH)):
        day.append((len(failed), mails))
        week.append((len(failed), mails))
        course.take(h * HOUR, len(failed), mails, WEEK)
        if h < 24:
            continue
        x, n = sum(d[0] for d in day), sum(d[1] for d in day)
        by_bound |= bounds.upper(x, n) <= LIMIT
        totals = {
            window: Counts(delivered=sum(n - x for x, n in held), hard=sum(x for x, _ in held))
            for window, held in (("24h", day), ("7d", week))
        }
        now = h * HOUR + HOUR - 1.0
        by_proof |= judge(BOUNCE, totals, standing(course, BOUNCE, now), now).verdict is TargetVerdict.MET
    return by_bound, by_proof


def complaints(lump: int, rate: float, monthly: int, seed: int) -> tuple[int, bool]:
    """What is said in 90 days, once a day and after 30 days of history, of a weekly newsletter about which recipients
    complain a day and a half later on average, ``lump`` times each: breaches, and whether ``met`` ever was."""
    random, came, days = Random(seed), [0] * (120 * 24), Days()
    last: dict[str, deque[Counts]] = {name: deque(maxlen=WINDOWS[name] // DAY) for name in COMPLAINT.windows}
    said, ever, was, today = 0, False, False, [0, 0]
    for h in range(len(came)):
        mails = monthly // 12 if h % (7 * 24) in (10, 11) else monthly // 2400
        for _ in independent(random, rate / lump, mails):
            at = h + int(random.expovariate(1 / 36))
            if at < len(came):
                came[at] += random.randint(1, 2 * lump - 1)
        days.take(h * HOUR, came[h], mails)
        today = [today[0] + came[h], today[1] + mails]
        if h % 24 < 23:
            continue
        for kept in last.values():
            kept.append(Counts(delivered=today[1], complained=today[0]))
        today, now = [0, 0], h * HOUR + HOUR - 1.0
        if h < MONTH:
            continue
        totals = {name: total(kept) for name, kept in last.items()}
        found = judge(COMPLAINT, totals, standing_of_days(days, COMPLAINT, now), now).verdict
        said += found is TargetVerdict.BREACHED and not was
        ever |= found is TargetVerdict.MET
        was = found is TargetVerdict.BREACHED
    return said, ever


def main(over: Callable[..., list[object]]) -> None:
    """Print the tables. ``over(call, runs)`` has ``call`` work through so many seeds."""
    found = over(falsely_met, 40)
    by_bound, by_proof = zip(*found, strict=True)  # type: ignore[call-overload]
    print(
        f"\nmet ever said in a month at exactly the limit, 50,000 a month: by the 95 % bound of a day "
        f"{mean(by_bound):.0%}, by the product {mean(by_proof):.0%}"
    )
    print("\nComplaints of a weekly newsletter, 50,000 a month (met below 0.1 %, breached above 0.3 %), in 90 days")
    for lump in (1, 3):
        for rate in (0.001, 0.002, 0.0025):
            said, ever = zip(*over(partial(complaints, lump, rate, 50_000), 60), strict=True)  # type: ignore[call-overload]
            print(
                f"{lump} at a time, {100 * rate:.2f} %: false breaches {mean(said):.2f}, met ever said {mean(ever):.0%}"
            )
    for name, nature in NATURES.items():
        print(f"\n== coverage of the published 95 % intervals, failures: {name}\n")
        print("Looked at on 30 days, and at every hour of the month (months in which no look missed the true rate)")
        print(f"{'':21}" + "".join(f"{f'{kind}, {period}':>22}" for kind, period in INTERVALS))
        for monthly in (5_000, 50_000, 500_000):
            for rate in (0.002, 0.01, 0.03):
                runs = 300 if nature is independent else {5_000: 60, 50_000: 60, 500_000: 30}[monthly]
                found = over(partial(coverage, nature, rate, monthly), runs)
                cells = []
                for each in zip(*found, strict=True):  # type: ignore[call-overload]
                    daily, ever = zip(*each, strict=True)
                    cells.append(f"{1 - sum(daily) / (30 * len(daily)):>14.1%} {1 - mean(ever):>7.1%}")
                print(f"{monthly:>8,} at {100 * rate:.1f} %    " + "".join(cells))
