"""What random steps are made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from shared_registry.model import AdminState, Source
from tests.support.model.keyspace import Spec
from tests.support.model.lease_steps import AT_ONCE, EVEN_LATER, NEVER
from tests.support.model.steps import SPELLINGS

Step = tuple[Callable[..., object], dict[str, Any]]


def step(*choices: tuple[int, Callable[..., object], dict[str, st.SearchStrategy[Any]]]) -> st.SearchStrategy[Step]:
    """Return one of these steps, with its arguments, as often as its weight says.

    One rule that draws the step, rather than a rule for each: Hypothesis would leave out most of the rules in most of
    the examples, and what is looked for here takes several kinds of steps.
    """
    weighted = [choice for choice in choices for _ in range(choice[0])]
    return st.sampled_from(weighted).flatmap(
        lambda choice: st.tuples(st.just(choice[1]), st.fixed_dictionaries(choice[2]))
    )


@st.composite
def specs(draw: st.DrawFn) -> tuple[str, Spec]:
    """Return a canonical url and a spec."""
    url = draw(urls)
    return url, Spec(
        url=draw(st.sampled_from(SPELLINGS[url])),
        name=draw(st.sampled_from(["", "a", "b c"])),
        primary=draw(st.booleans()),
        weight=draw(st.sampled_from([1.0, 2.0, 0.1 + 0.2, 1e-3])),
        capacity=draw(st.sampled_from([0, 0, 1, 2])),
        order=draw(st.sampled_from(["", "", "", "0", "1", "7"])),
        health_check_path=draw(st.sampled_from(["", "", "/ready"])),
        health_check_port=draw(st.sampled_from(["", "", "8081"])),
        labels=draw(st.sampled_from(["", "", "zone=a", "gpu=x,zone=b"])),
    )


urls = st.sampled_from(sorted(SPELLINGS))
modes = st.sampled_from([Source.SEED, Source.EXPLICIT])
states = st.sampled_from([AdminState.ACTIVE, AdminState.DRAINING, AdminState.DISABLED])
reasons = st.sampled_from(["", "deploy"])
limits = st.sampled_from([(3, 2), (1, 1), (2, 3)])
mostly_current = st.sampled_from([0, 0, 0, 0, 1, 2])
errors = st.sampled_from(["", "", "refused", "status 503"])
verdicts = st.tuples(urls, st.sampled_from([0, 0, 0, 1]), errors, st.floats(0, 1e4))
sessions = st.sampled_from(["", "", "", "anna", "bert"])
few_urls: st.SearchStrategy[list[str]] = st.one_of(st.just([]), st.just([]), st.lists(urls, max_size=2))
few_urls_or_all = st.one_of(few_urls, few_urls, st.just(sorted(SPELLINGS)))
affinities = st.sampled_from([0, 600])
which = st.integers(0, 7)
mostly_first = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 4, 7])
held = st.lists(st.tuples(which, st.one_of(st.none(), urls)), min_size=1, max_size=4)
unheard_of = st.lists(st.tuples(sessions, urls), max_size=3)


def asking(routers: st.SearchStrategy[int], at_most: int) -> dict[str, st.SearchStrategy[Any]]:
    """Return the arguments of a step that asks for some slots at once."""
    return {
        "number": routers,
        "tie": st.integers(0, 5),
        "session": sessions,
        "avoided": few_urls,
        "excluded": few_urls,
        "times": st.integers(1, at_most),
        "spare": st.sampled_from([EVEN_LATER, EVEN_LATER, AT_ONCE, NEVER]),
    }
