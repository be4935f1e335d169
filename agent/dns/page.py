"""Pages asked for by a check, as values: a plan yields a ``Fetch`` among its questions and is sent a ``Page``."""

from __future__ import annotations

from urllib.parse import urlsplit

from agent.dns.answer import Answer, Outcome, Question

_OUTCOMES = {"timeout": Outcome.TIMEOUT, "dns": Outcome.UNREACHABLE, "connect": Outcome.UNREACHABLE}


class Fetch(Question, frozen=True, cache_hash=True):
    """A GET of ``url`` over https; ``name`` is its host, ``type`` is ``GET``. ``limit`` is the most octets of a body,
    ``redirects`` how many are followed. An answer up to ``max_age`` seconds old will do."""

    url: str = ""
    limit: int = 65536
    redirects: int = 0
    max_age: float = 0.0


class Page(Answer, frozen=True):
    """What a web server said. ``outcome`` is ``answer`` whatever the ``status``; otherwise ``problem`` is the reason of
    ``agent.fetch.FetchError`` and the status 0. ``at`` is when the plan was told, Unix seconds; ``content_type`` is in
    lower case, without parameters; ``certificate`` are the first and last second of the server's certificate."""

    status: int = 0
    content_type: str = ""
    body: bytes = b""
    problem: str = ""
    certificate: tuple[float, float] = (0.0, 0.0)


def get(url: str, *, limit: int = 65536, redirects: int = 0, max_age: float = 0.0) -> Fetch:
    """The question for a URL, which may be anybody's text: one that cannot be fetched is answered with a problem."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    return Fetch(host, "GET", url=url, limit=limit, redirects=redirects, max_age=max_age)


def starttls(host: str, *, max_age: float = 0.0) -> Fetch:
    """The question for the certificates that a mail host shows after STARTTLS; the body is PEM. Beside the problems of
    a page there are those of ``agent.dns.smtp.certificates``."""
    return Fetch(host, "GET", url=f"smtp://{host}", max_age=max_age)


def failed(fetch: Fetch, problem: str) -> Page:
    """The answer when nothing was fetched."""
    return Page(fetch, _OUTCOMES.get(problem, Outcome.MALFORMED), problem=problem)


def page(answer: Answer) -> Page:
    """The answer to a ``Fetch``. A time-out that the plan was given in its place is a page that never came."""
    if isinstance(answer, Page):
        return answer
    if answer.outcome is Outcome.ANSWER:
        return Page(answer.question, Outcome.ANSWER, status=200, body="\n".join(answer.records).encode())
    outcome = Outcome.UNREACHABLE if answer.outcome.definitive else answer.outcome
    return Page(answer.question, outcome, problem=str(outcome))
