"""``python -m tests.fuzz [--minutes N] [--seed N] [json] [form]``: ten minutes each unless told otherwise."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.fuzz.run import fuzz


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Break signed bodies and read them.")
    options.add_argument("--minutes", type=float, default=10.0, help="for each kind of body")
    options.add_argument("--seed", type=int, default=int(time.time()), help="the same seed breaks the same way")
    options.add_argument("kinds", nargs="*", metavar="json|form", help="both unless named")
    given = options.parse_args()
    if not set(given.kinds) <= {"json", "form"}:
        options.error("kinds are json and form")
    for kind in given.kinds or ["json", "form"]:
        print(f"{kind}: seed {given.seed}, {given.minutes:g} minutes ...", flush=True)
        end = time.monotonic() + given.minutes * 60
        with tempfile.TemporaryDirectory() as folder:
            tally = asyncio.run(
                fuzz(kind == "form", lambda _, end=end: time.monotonic() < end, given.seed, Path(folder))
            )
        print(f"{kind}: nothing escaped. {tally}", flush=True)


if __name__ == "__main__":
    main()
