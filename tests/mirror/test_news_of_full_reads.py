"""What a full read brings is compared with what was reported in pieces, and reported as if at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared_registry.aio import breath
from shared_registry.happenings import (
    Emitter,
    Happening,
    ReplicaDrained,
    ReplicaRegistered,
    ReplicaRemoved,
    ReplicaUnhealthy,
    ViewLoaded,
)
from shared_registry.mirror import news as module
from shared_registry.mirror.mirror import Mirror
from shared_registry.mirror.news import News
from shared_registry.model import (
    AdminState,
    Replica,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
)
from shared_registry.selection.view import View

URLS = [f"http://10.0.0.{number}:8000" for number in range(1, 21)]


def healthy(url: str, **changes: Any) -> ReplicaRecord:
    record = replace(Replica(ReplicaEndpoint(url, order=0)).record, health=ReplicaHealth(ReplicaStatus.HEALTHY))
    return replace(record, revision="1-0", **changes)


class Router:
    """A mirror that a test moves by hand, its news, and what was heard."""

    def __init__(self, records: Mapping[str, ReplicaRecord]) -> None:
        self.heard: list[Happening] = []
        emitter = Emitter()
        emitter.subscribe(self.heard.append)
        self.mirror = SimpleNamespace(
            view=View(), generation=1, leader=None, revision="1-0", history_id="h", is_settling=False, gap="missed"
        )
        self.mirror.view.replace_all(records)
        self.news = News(emitter, cast("Mirror", self.mirror))
        self.news.start()
        self.heard.clear()

    async def read(self, records: Mapping[str, ReplicaRecord], *, meanwhile: Mapping[str, ReplicaRecord] = {}) -> None:
        await self.news.prepare(records)
        self.mirror.view.replace_all({**records, **meanwhile})
        self.mirror.generation += 1
        self.news.notice(())

    def kinds(self) -> list[tuple[type[Happening], str]]:
        return [(type(one), getattr(getattr(one, "record", None), "key", "")) for one in self.heard]


async def test_only_what_may_have_happened_is_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breath, "PIECE_SECONDS", 0.0)
    before = {url: healthy(url) for url in URLS[:-1]}
    router = Router(before)
    after = {url: replace(record, in_flight=1) for url, record in before.items()}
    after[URLS[3]] = replace(after[URLS[3]], health=ReplicaHealth(ReplicaStatus.UNHEALTHY), revision="2-0")
    del after[URLS[5]]
    after[URLS[-1]] = healthy(URLS[-1])
    compared: list[str] = []
    differences = module._differences

    def counted(former: ReplicaRecord | None, record: ReplicaRecord, **more: Any) -> Any:
        compared.append(record.key)
        return differences(former, record, **more)

    await router.news.prepare(after)
    monkeypatch.setattr(module, "_differences", counted)
    await router.read(after)
    assert set(compared) == {URLS[3], URLS[-1]}
    assert router.kinds() == [
        (ViewLoaded, ""),
        (ReplicaRemoved, URLS[5]),
        (ReplicaRegistered, URLS[-1]),
        (ReplicaUnhealthy, URLS[3]),
    ]


async def test_what_changes_after_the_comparison_is_news() -> None:
    before = {url: healthy(url) for url in URLS}
    router = Router(before)
    after = {url: replace(record, in_flight=1) for url, record in before.items()}
    drained = replace(after[URLS[2]], admin=AdminState.DRAINING, revision="3-0")
    await router.read(after, meanwhile={URLS[2]: drained})
    assert router.kinds() == [(ViewLoaded, ""), (ReplicaDrained, URLS[2])]


async def test_while_nobody_listens_nothing_is_compared() -> None:
    router = Router({})
    router.news._reported = None
    await router.news.prepare({URLS[0]: healthy(URLS[0])})
    assert router.news._reported is None
