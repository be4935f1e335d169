"""How often verdicts err and how soon they speak: the product's own rules on simulated mail.

Senders have a true rate, known here and to nobody else; their hours go through the very code that decides in the
agent, looked at after every failure. Beside it stand what it is measured against: the information bound
ln(1/alpha) / KL(true rate, limit) at alpha = 1 % (Wald: fewer mails cannot prove as much on average), a CUSUM over five
alternatives, the Wilson lower bound (99.9 %) over a sliding day, and the plain rule "this hour is above 1 %".

    python -m bench.verdicts [--quick] [--seed N]
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from random import Random
from statistics import mean

from agent.clock import HOUR, WEEK
from agent.vitals.sequence import MOUNTING, Course
from agent.vitals.verdicts import Target
from bench import coverage
from bench.senders import NATURES, Hour, Nature, hours, independent

LIMIT = 0.01
BOUNCE = Target(name="bounce", windows=("24h", "7d"), met=LIMIT, breach=LIMIT)
QUARTER = 90 * 24
QUIET = 30 * 24
LATEST = 90 * 24  # hours after which a change counts as found, so that means are not biased downwards unseen


class Agent:
    """The product's detector as the agent uses it: the hours that are over are kept, the present one is looked at."""

    def __init__(self) -> None:
        self.course = Course(LIMIT)
        self.open = False

    def hour(self, now: int, failed: Hour, mails: int) -> int:
        """Go through one hour; at which of its mails a breach was first said, 0 if none was."""
        said, was = 0, self.open
        for count, place in enumerate(failed, 1):
            if was or said:
                break
            if count < 2 and self.course.evidence < 3:  # One failure cannot reach the alarm from here.
                continue
            look = self.course.copy()
            look.take(now, count, place, WEEK)
            if look.breached_since:
                said = place
        self.course.take(now, len(failed), mails, WEEK)
        # As an incident is: what a look within the hour has opened closes when its evidence is gone.
        breached = bool(self.course.breached_since)
        self.open = breached or ((was or said > 0) and self.course.evidence >= MOUNTING)
        return said or (mails if breached and not was else 0)


class Cusum:
    """Page's CUSUM, one for each of five alternatives at the same height, for every single mail."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.steps = [(math.log(p / LIMIT), math.log((1 - p) / (1 - LIMIT))) for p in (0.015, 0.02, 0.03, 0.05, 0.1)]
        self.sums = [0.0] * len(self.steps)

    def hour(self, now: int, failed: Hour, mails: int) -> int:
        before = said = 0
        for place in (*failed, mails + 1):
            for i, (gain, cost) in enumerate(self.steps):
                self.sums[i] = max(0.0, self.sums[i] + (place - before - 1) * cost)
                if place <= mails:
                    self.sums[i] += gain
            before = place
            if place <= mails and max(self.sums) >= self.height:
                said, self.sums = said or place, [0.0] * len(self.steps)
        return said


class Wilson:
    """The lower Wilson bound of a sliding day, looked at after every failure; open until it is within the limit."""

    def __init__(self, z: float = 3.2905) -> None:
        self.z, self.hours, self.open = z, deque[tuple[int, int]](maxlen=23), False

    def hour(self, now: int, failed: Hour, mails: int) -> int:
        x, n = sum(h[0] for h in self.hours), sum(h[1] for h in self.hours)
        said = 0
        for count, place in enumerate(failed, 1):
            beyond = self._beyond(x + count, n + place)
            if beyond and not self.open:
                said = said or place
            self.open = beyond
        self.open = self._beyond(x + len(failed), n + mails)
        self.hours.append((len(failed), mails))
        return said

    def _beyond(self, x: int, n: int) -> bool:
        p, z2 = x / n, self.z**2
        low = (p + z2 / (2 * n) - self.z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
        return x >= 3 and low > LIMIT


class Naive:
    """This hour is above the limit; open until an hour is not."""

    def __init__(self) -> None:
        self.open = False

    def hour(self, now: int, failed: Hour, mails: int) -> int:
        beyond, was = len(failed) > LIMIT * mails, self.open
        self.open = beyond
        return mails if beyond and not was else 0


Method = Callable[[], Agent | Cusum | Wilson | Naive]
METHODS: dict[str, Method] = {
    "this product": Agent,
    "CUSUM, height 7.3": partial(Cusum, 7.3),
    "Wilson 99.9 % over 24 h": Wilson,
    "naive: the hour above 1 %": Naive,
}


def false_alarms(method: Method, nature: Nature, rate: float, monthly: int, seed: int) -> int:
    """Breaches said in one quarter after a quiet month, all at a rate within the limit."""
    random, judge_, found = Random(seed), method(), 0
    for h, (failed, mails) in enumerate(hours(random, nature, rate, monthly, QUIET + QUARTER)):
        found += bool(judge_.hour(h * HOUR, failed, mails)) and h >= QUIET
    return found


def mails_until_found(
    method: Method, nature: Nature, before: float, rate: float, monthly: int, seed: int, *, quiet: int = QUIET
) -> int:
    """Mails from the change, at a random moment of an hour after 30 quiet days, to the first word of a breach."""
    random, judge_, seen, h = Random(seed), method(), 0, 0
    for failed, mails in hours(random, nature, before, monthly, quiet):
        judge_.hour(h * HOUR, failed, mails)
        h += 1
    judge_.open = False
    per_hour = max(1, round(monthly / 720))
    still = random.randrange(per_hour)
    first = True
    for _ in range(LATEST):
        if first:
            failed = nature(random, before, still) if still else []
            failed = failed + [still + place for place in nature(random, rate, per_hour - still)]
        else:
            failed = nature(random, rate, per_hour)
        said = judge_.hour(h * HOUR, failed, per_hour)
        if said > (still if first else 0):
            return seen + said - (still if first else 0)
        seen += per_hour - (still if first else 0)
        first, h = False, h + 1
    return seen


def flaps(rate: float, monthly: int, seed: int) -> tuple[int, float]:
    """Of a sender who is bad for 20 days and well again for 20: breaches said, and hours until the end is proven."""
    random, agent, said, ended, h = Random(seed), Agent(), 0, 480.0, 0
    for phase, true in enumerate((0.005, rate, 0.005)):
        for i, (failed, mails) in enumerate(hours(random, independent, true, monthly, 480)):
            said += bool(agent.hour(h * HOUR, failed, mails))
            if phase == 2 and not agent.open:
                ended = min(ended, i + 1.0)
            h += 1
    return said, ended


def information_bound(rate: float, alpha: float = 0.01) -> float:
    """Mails that no method can do without on average."""
    kl = rate * math.log(rate / LIMIT) + (1 - rate) * math.log((1 - rate) / (1 - LIMIT))
    return math.log(1 / alpha) / kl


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a tenth of the runs, to see that it works")
    options.add_argument("--seed", type=int, default=1)
    args = options.parse_args()
    began, few = time.perf_counter(), 10 if args.quick else 1
    with ProcessPoolExecutor(os.cpu_count()) as pool:

        def over(call: Callable[[int], object], runs: int) -> list[object]:
            runs = max(2, runs // few)
            return list(pool.map(call, range(args.seed, args.seed + runs), chunksize=max(1, runs // 16)))

        print(__doc__.split("\n\n    python")[0])
        for name, nature in NATURES.items():
            table(name, nature, over, main=nature is independent)
        endings(over)
        coverage.main(over)
    print(f"\nseed {args.seed}, {time.perf_counter() - began:.0f} s")


def table(name: str, nature: Nature, over: Callable[..., list[object]], *, main: bool) -> None:
    print(f"\n== failures: {name}\n")
    print("False breaches in 90 days, after a quiet month (limit 1 %)")
    print(f"{'':28}" + "".join(f"{v:>11}" for v in ("5K", "50K", "500K")))
    for method_name, method in METHODS.items():
        if not main and not method_name.startswith(("this", "CUSUM")):
            continue
        for rate in (0.002, 0.005, 0.008):
            row = []
            for monthly in (5_000, 50_000, 500_000):
                runs = {5_000: 100, 50_000: 40, 500_000: 4}[monthly]
                if method is Agent and main and (monthly, rate) == (50_000, 0.005):
                    runs = 600
                found = over(partial(false_alarms, method, nature, rate, monthly), runs)
                row.append(f"{mean(found):>11.3f}")  # type: ignore[type-var]
            print(f"{method_name:21} {100 * rate:.1f} %" + "".join(row))
    print("\nMails until a change from 0.5 % is found, at 50,000 a month")
    print(f"{'':28}{'to 1.5 %':>11}{'to 3 %':>11}{'to 10 %':>11}")
    for method_name, method in METHODS.items():
        if not main and not method_name.startswith(("this", "CUSUM")):
            continue
        cells = []
        for rate, runs in ((0.015, 40), (0.03, 200), (0.1, 300)):
            found = over(partial(mails_until_found, method, nature, 0.005, rate, 50_000), runs)
            cells.append(f"{mean(found):>11,.0f}")  # type: ignore[type-var]
        print(f"{method_name:28}" + "".join(cells))
    bound = "".join(f"{information_bound(rate):>11,.0f}" for rate in (0.015, 0.03, 0.1))
    print(f"{'information bound':28}" + bound)


def endings(over: Callable[..., list[object]]) -> None:
    print("\n== how a breach ends: 20 bad days, then 0.5 %, at 50,000 a month\n")
    for rate in (0.015, 0.03, 0.1):
        found = over(partial(flaps, rate, 50_000), 40)
        said, ended = zip(*found, strict=True)  # type: ignore[call-overload]
        print(f"bad at {100 * rate:>4.1f} %: breaches said {mean(said):.2f}, ended after {mean(ended):.0f} hours")


if __name__ == "__main__":
    main()
