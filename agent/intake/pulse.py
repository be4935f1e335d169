"""When each source spoke, hour by hour, and when the agent could hear it: what a rhythm is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from agent.clock import HOUR, WEEK
from agent.vitals.rhythm import INTERVAL, WEEKS, Silence, Spoken, silence

# The agent was deaf between two marks that lie further apart (seconds).
_GAP = 60.0
_KEPT = (WEEKS + 1) * WEEK
_SELF = ""  # the agent's own document; no source has that name


class _Journal(msgspec.Struct):
    hours: dict[int, Spoken] = {}
    last: float = 0.0


class _Listening(msgspec.Struct):
    hours: dict[int, float] = {}


_encode = msgspec.json.encode
_journal, _listening = msgspec.json.Decoder(_Journal), msgspec.json.Decoder(_Listening)


class Pulse:
    """The journals of all sources. At most 840 hours each."""

    def __init__(self, sources: Iterable[str], started_at: float) -> None:
        self._journals = {name: _Journal() for name in sources}
        self._listened = _Listening()
        self._started_at = started_at
        self._marked = 0.0
        self._changed: set[str] = set()
        self._silences: dict[str, Silence | None] = {}

    def restore(self, documents: Mapping[str, bytes]) -> None:
        """Go on from what ``documents`` gave before. What cannot be read is forgotten: a rhythm forms anew."""
        for name, body in documents.items():
            try:
                if name == _SELF:
                    self._listened = _listening.decode(body)
                elif name in self._journals:
                    self._journals[name] = _journal.decode(body)
            except msgspec.DecodeError:
                continue

    def heard(self, source: str, at: float, events: int) -> None:
        """A request of the source with so many events was taken at ``at`` (Unix seconds)."""
        journal = self._journals[source]
        hour = int(at // HOUR) * HOUR
        said = journal.hours.get(hour)
        new = at // INTERVAL * INTERVAL > journal.last
        journal.hours[hour] = Spoken(said.events + events, said.intervals + new) if said else Spoken(events, 1)
        journal.last = max(journal.last, at)
        self._changed.add(source)

    def told(self, source: str, at: float) -> None:
        """Some agent of those that share the store took a request of the source at ``at`` (Unix seconds); how many
        events it had is not known here."""
        if source in self._journals and at > self._journals[source].last:
            self.heard(source, at, 0)

    def listening(self, now: float, able: bool) -> None:
        """Whether the agent could take requests at ``now``. The time since the last such moment counts as heard, unless
        too much of it has gone by to tell."""
        passed = now - self._marked
        if able and 0 < passed <= _GAP:
            hour = int(now // HOUR) * HOUR
            hours = self._listened.hours
            hours[hour] = min(float(HOUR), hours.get(hour, 0.0) + passed)
            self._changed.add(_SELF)
        self._marked = now if able else 0.0

    def judge(self, now: float) -> Iterator[None]:
        """Look at the sources anew, one at each step, of a millisecond at most."""
        for name, journal in self._journals.items():
            # Who spoke within the hour cannot be missing.
            quiet = now - journal.last >= HOUR
            self._silences[name] = (
                silence(journal.hours, self._listened.hours, journal.last, self._started_at, now) if quiet else None
            )
            yield

    def silence(self, source: str) -> Silence | None:
        """The source's silence as last judged; ``None`` when it spoke since, or has no rhythm to hold it against."""
        found = self._silences.get(source)
        return found if found and found.since == self._journals[source].last else None

    def changes(self, now: float) -> Iterator[tuple[str, bytes]]:
        """The documents that changed since the last time, to be kept; what is too old is dropped first."""
        changed, self._changed = self._changed, set()
        for name in changed:
            kept: _Journal | _Listening = self._listened if name == _SELF else self._journals[name]
            for hour in [h for h in kept.hours if not now - _KEPT <= h <= now + HOUR]:
                del kept.hours[hour]
            yield name, _encode(kept)
