"""``python -m agent`` is ``mailvitals``."""

from agent.cli import main

main()
