"""Small documents that are kept in the store, written only where they differ from what lies there."""

from __future__ import annotations

from collections.abc import Mapping

from agent.ledger.base import Ledger

_IN_DOUBT = b""  # no document


class Documents:
    """What one part of the program keeps in the ledger under one ``kind``. ``load`` comes before ``save``."""

    def __init__(self, ledger: Ledger, kind: str) -> None:
        self._ledger = ledger
        self._kind = kind
        self._stored: dict[str, bytes] = {}
        self._loads = self._newest = 0

    async def load(self) -> Mapping[str, bytes]:
        """Everything stored, by key. An answer that comes after one to a later question is not believed: it may be of
        before another agent led. Raises ``StoreUnavailable``."""
        self._loads += 1
        asked = self._loads
        found = await self._ledger.load(self._kind)
        if asked > self._newest:
            self._newest, self._stored = asked, found
        return self._stored

    @property
    def stored(self) -> Mapping[str, bytes]:
        """What lies in the store as far as this part knows."""
        return self._stored

    async def save(self, documents: dict[str, bytes], *, epoch: int) -> None:
        """Make the store hold exactly these, in one transaction, as the leader of ``epoch``. Raises
        ``StoreUnavailable``, after which the next ``save`` tries again, and ``Deposed``."""
        stored = self._stored
        changes: dict[str, bytes | None] = {k: v for k, v in documents.items() if stored.get(k) != v}
        changes |= dict.fromkeys(stored.keys() - documents.keys())
        if changes:
            # A commit may be lost on its way back: until one is known to have come, these are to be written again.
            self._stored = {**stored, **dict.fromkeys(changes, _IN_DOUBT)}
            await self._ledger.save(self._kind, changes, epoch=epoch)
            self._stored = documents
