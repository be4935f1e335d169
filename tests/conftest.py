"""What every test runs under."""

from __future__ import annotations

from hypothesis import settings

# So many examples do where the search is blind (any JSON, any text), since `make fuzz` is where that is long. What
# counts, compares or holds windows to each other says its own number.
settings.register_profile("suite", max_examples=30, deadline=None)
settings.load_profile("suite")
