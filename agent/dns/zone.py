"""Where the zone of a name may begin."""

from __future__ import annotations

from agent.suffix import registered_domain


def zone_names(domain: str) -> list[str]:
    """The names of which one begins the domain's zone: itself first, its registered domain last."""
    top = registered_domain(domain) or domain
    names = [domain]
    while names[-1] != top and "." in names[-1] and len(names) < 10:
        names.append(names[-1].partition(".")[2])
    return names
