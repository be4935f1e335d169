"""``python -m tests.chaos [--minutes N] [--seed N]``: ten minutes unless told otherwise."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.chaos.run import chaos


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill everything, count everything.")
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=int(time.time()), help="the same seed plans the same blows")
    given = options.parse_args()
    print(f"seed {given.seed}, {given.minutes:g} minutes ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="mailvitals-chaos-") as folder:
        asyncio.run(chaos(Path(folder), seconds=60 * given.minutes, seed=given.seed))


if __name__ == "__main__":
    main()
