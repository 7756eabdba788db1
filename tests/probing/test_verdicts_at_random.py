"""Random words of routers about replicas, on a real server: what each may change, and what it must not.

The rules are written down once more, on what was in Redis before and after each command.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.model import AdminState, OpinionKind, ProbeResult, Term
from shared_registry.store.replies import Elected
from tests.support.effort import some_of
from tests.support.space import A, B, on_server
from tests.support.verdicts import DOUBT, FIVE, FOUR, LEADER, LIMITS, THREE, TIMEOUT, TWO, Verdicts

URLS, ROUTERS = (A, B), (LEADER, TWO, THREE, FOUR, FIVE)
STEPS = 400
OUTCOMES = ("ok", "failed", "failed", "failed", "unsure")

Fields = dict[str, str]
Ready = tuple[set[str], set[str], set[str]]


@dataclass
class Word:
    """What a router said in one step.

    Attributes:
        kind: `probe` for the leader's, `session`, the kind of an opinion, or empty for everything else.
    """

    kind: str = ""
    router: str = ""
    url: str = A
    outcome: str = ""
    id: str = ""
    incarnation: str = ""


@dataclass
class Saw:
    """What was in Redis at one moment."""

    now_ms: int
    replicas: dict[str, Fields]
    ready: Ready
    probers: set[str]
    leader: str
    event_count: int


@dataclass
class Walk:
    """One random walk.

    Attributes:
        seen: How often each kind of change came about.
    """

    verdicts: Verdicts
    rng: random.Random
    leader: str = LEADER
    token: str = "token"
    old_ids: list[str] = field(default_factory=lambda: ["0-nobody"])
    seen: dict[str, int] = field(default_factory=dict)

    # what happens

    async def step(self) -> Word:
        acts: list[tuple[int, Callable[[], Awaitable[Word]]]] = [
            (10, self._probe), (8, self._opinion), (4, self._report), (3, self._appeal), (2, self._session),
            (3, self._let_time_pass), (1, self._change), (1, self._end_or_begin), (1, self._lead),
        ]  # fmt: skip
        (act,) = self.rng.choices([act for _, act in acts], [weight for weight, _ in acts])
        return await act()

    def _result(self, url: str, outcome: str, incarnation: str) -> ProbeResult:
        error = None if outcome == "ok" else outcome
        return ProbeResult(url, incarnation, 1.0, error, is_unsure=outcome == "unsure")

    def _word(self, kind: str, router: str, *, opinion_id: str = "") -> Word:
        url, outcome = self.rng.choice(URLS), self.rng.choice(OUTCOMES)
        incarnation = self.verdicts.state(url)["incarnation"] if self.rng.random() < 0.95 else "another"
        return Word(kind, router, url, outcome, opinion_id, incarnation)

    async def _probe(self) -> Word:
        word = self._word("probe", self.leader)
        self.verdicts.batch += 1
        result = self._result(word.url, word.outcome, word.incarnation)
        store = self.verdicts.space.store_of(self.leader)
        await store.report(Term(self.verdicts.epoch, self.token), self.verdicts.batch, [result], LIMITS)
        return word

    async def _say(self, word: Word) -> Word:
        result = self._result(word.url, word.outcome, word.incarnation)
        await self.verdicts.say(word.router, OpinionKind(word.kind), word.id, result)
        return word

    async def _opinion(self) -> Word:
        word = self._word("opinion", self.rng.choice(ROUTERS))
        state = self.verdicts.state(word.url)
        asked = state.get("asked", "").split()
        if asked and self.rng.random() < 0.8:
            word.router = self.rng.choice(asked)
        word.id = state.get("suspicion", "0-nobody") if self.rng.random() < 0.85 else self.rng.choice(self.old_ids)
        self.old_ids.append(word.id)
        return await self._say(word)

    async def _report(self) -> Word:
        word = self._word("report", self.rng.choice(ROUTERS))
        state = self.verdicts.state(word.url)
        if "prober" in state and self.rng.random() < 0.8:
            word.router = state["prober"]
        word.id = str(int(state.get("prober_report", "0")) + self.rng.choice([0, 1, 1, 1]))
        return await self._say(word)

    async def _appeal(self) -> Word:
        return await self._say(self._word("appeal", self.rng.choice(ROUTERS), opinion_id=self.rng.choice("123")))

    async def _session(self) -> Word:
        word = self._word("session", self.rng.choice(ROUTERS))
        if word.outcome == "unsure":
            return Word()
        result = self._result(word.url, word.outcome, word.incarnation)
        await self.verdicts.space.store_of(word.router).record_outcome(result, LIMITS, is_passive=True)
        return word

    async def _let_time_pass(self) -> Word:
        url = self.rng.choice(URLS)
        if self.rng.random() < 0.3 and "suspected_until_ms" in self.verdicts.state(url):
            self.verdicts.let_silence_end(url)
        elif self.rng.random() < 0.2 and "prober" in self.verdicts.state(url):
            key = self.verdicts.space.keys.replica(url)
            self.verdicts.space.raw.hset(key, "prober_until_ms", self.verdicts.space.now_ms() - 1)
        else:
            self.verdicts.let_an_interval_pass(url)
        return Word()

    async def _change(self) -> Word:
        url, space = self.rng.choice(URLS), self.verdicts.space
        if self.rng.random() < 0.5:
            await space.remove(url)
            await space.add(url)
        else:
            for state in (AdminState.DISABLED, AdminState.ACTIVE):
                await space.store.set_admin(url, state, reason="", by="")
        return Word()

    async def _end_or_begin(self) -> Word:
        router, space = self.rng.choice(ROUTERS), self.verdicts.space
        member = f"same of-{router} {router}"
        if self.rng.random() < 0.5 and router != self.leader:
            space.raw.zadd(space.keys.probers, {member: space.now_ms() - 1}, xx=True)
        else:
            await self.verdicts.join(router)
        return Word()

    async def _lead(self) -> Word:
        space = self.verdicts.space
        space.raw.delete(space.keys.leader)
        self.leader, self.token = self.rng.choice(ROUTERS), f"token-{self.rng.random()}"
        elected = await space.store_of(self.leader).campaign(self.token, lease_seconds=60, seen_epoch=0)
        assert isinstance(elected, Elected)
        self.verdicts.epoch, self.verdicts.batch = elected.epoch, 0
        return Word()

    # what is checked

    def look(self) -> Saw:
        space = self.verdicts.space
        now = space.now_ms()
        members = space.raw.zrangebyscore(space.keys.probers, now + 1, "+inf")
        return Saw(
            now_ms=now,
            replicas={url: space.fields(url) for url in URLS},
            ready=space.ready(),
            probers={member.split(" ")[2] for member in members},
            leader=self.leader,
            event_count=space.raw.xlen(space.keys.events),
        )

    def count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    def check(self, word: Word, before: Saw, after: Saw) -> None:
        old, new = before.replicas[word.url], after.replicas[word.url]
        for url in URLS:
            self._check_doubt(after.replicas[url])
            if word.kind and url != word.url:
                assert before.replicas[url] == after.replicas[url], "a word is about one replica"
        if not word.kind:
            return
        if old["status"] == new["status"]:
            assert before.ready == after.ready, "only a status changes what is ready"
        if self._is_stale(word, old, before):
            self.count("stale")
            assert (old, before.event_count) == (new, after.event_count), "a stale word changes nothing"
        self._check_word(word, old, new)
        if (old["status"], new["status"]) == ("healthy", "unhealthy"):
            self._check_verdict(word, old, before)
        if "prober" in new and "prober" not in old:
            self.count("handed over")
            assert word.outcome == "ok"
            assert new["prober"] == word.router
            assert word.kind == "appeal" or old.get("refuted_prober") == old["suspected_by"]

    def _check_word(self, word: Word, old: Fields, new: Fields) -> None:
        if word.kind == "session":
            assert old["status"] == new["status"], "sessions change no status among peers"
        if word.outcome == "unsure" and not (word.kind == "opinion" and "unreached_by" in old):
            assert old["status"] == new["status"]
            assert old["consecutive_failures"] == new["consecutive_failures"]
        if word.outcome == "unsure":
            assert old.get("last_error") == new.get("last_error"), "not the replica's error"
        if word.kind == "probe" and word.outcome == "ok" and word.incarnation == old["incarnation"]:
            self.count("leader reaches it")
            assert new.keys() & DOUBT == set(), "a success of the leader ends all doubt"

    def _check_doubt(self, fields: Fields) -> None:
        assert len(fields.get("asked", "").split()) <= 3
        assert "suspicion" in fields or not {"asked", "suspected_by", "suspected_until_ms"} & fields.keys()
        assert ("prober" in fields) is ("prober_until_ms" in fields)
        if fields["status"] != "healthy" or fields["admin"] == "disabled":
            assert "suspicion" not in fields, "only a healthy replica is in question"

    def _is_stale(self, word: Word, old: Fields, before: Saw) -> bool:
        if word.incarnation != old["incarnation"]:
            return True
        if word.kind == "opinion":
            return word.id != old.get("suspicion") or word.router not in old["asked"].split()
        if word.kind == "report":
            is_late = old.get("prober") and (
                int(old["prober_until_ms"]) <= before.now_ms or int(word.id) <= int(old["prober_report"])
            )
            return old.get("prober") != word.router or bool(is_late) or word.router not in before.probers
        return word.kind == "appeal" and (word.outcome != "ok" or old["status"] == "healthy")

    def _check_verdict(self, word: Word, old: Fields, before: Saw) -> None:
        """What a verdict needs: failures of the prober, and the agreement, or the silence, of those that were asked."""
        if word.kind == "opinion":
            self.count("all agreed")
            assert old["asked"].split() == [word.router], "everybody has answered"
            assert word.outcome == "failed" or "unreached_by" in old, "an unsure answer is none, others have agreed"
            return
        assert word.outcome == "failed"
        speaker = old.get("prober", self.leader)
        is_heard = speaker in before.probers and int(old.get("prober_until_ms", "0")) > before.now_ms
        assert word.router == speaker or (word.kind == "probe" and not is_heard)
        assert int(old["consecutive_failures"]) + 1 >= LIMITS.failure
        if not before.probers - {word.router}:
            self.count("alone")
            return
        assert "suspicion" in old
        is_over = int(old.get("suspected_until_ms", before.now_ms * 2)) <= before.now_ms + TIMEOUT
        self.count("one agreed" if "unreached_by" in old else "silence")
        assert "unreached_by" in old or is_over


@pytest.fixture
async def verdicts(server: EmbeddedServer, namespace: str) -> AsyncIterator[Verdicts]:
    async with on_server(server.url, namespace) as space:
        verdicts = Verdicts(space)
        for url in URLS:
            await space.add(url)
        await verdicts.join(*ROUTERS)
        await verdicts.lead()
        for url in URLS:
            await verdicts.probe(space.success(url))
        yield verdicts


@pytest.mark.parametrize("seed", range(6))
async def test_every_word_changes_only_what_it_may(verdicts: Verdicts, seed: int) -> None:
    walk = Walk(verdicts, random.Random(seed))
    for number in range(max(STEPS // 2, some_of(STEPS))):
        verdicts.begin_steady_state()
        before = walk.look()
        word = await walk.step()
        try:
            walk.check(word, before, walk.look())
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, step {number}, {word}, {before.replicas[word.url]}") from error
    assert walk.seen.keys() >= {"stale", "leader reaches it", "handed over"}
    assert walk.seen.keys() & {"all agreed", "one agreed", "silence"}
