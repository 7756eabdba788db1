"""Looks up the host names of replicas, so that a name whose lookup hangs costs its own replicas only.

The system's resolver (`getaddrinfo`) is used, because sessions use it too: a resolver library would know neither the
hosts file nor the other sources of names of this machine. It blocks, so it runs in threads of this module's own. Names
that were answered quickly last time, new names, and slow names have separate shares of these threads. One lookup of a
name runs at a time. The last answer is kept while a lookup hangs or the resolver fails.

A name that is not answered is at fault only if another one was answered whose lookup began clearly later, because the
resolver may break between two lookups that begin together. Without such a lookup, one of another name is begun.

Not promised: a new name waits while three quarters of `MOST_THREADS` lookups hang at once.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import ipaddress
import math
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shared_registry.aio.daemon_thread import start_call
from shared_registry.probing.own_trouble import RESOLVER_REASON, OwnTrouble, own_trouble, resolver_trouble

LOOKUP_AGAIN_SECONDS = 30.0
"""The age of an answer from which a name is looked up again."""
SAME_ANSWER_SECONDS = 1.0
"""The age up to which an answer serves other new connections, so that many replicas behind one name need one lookup."""
PATIENCE_SECONDS = 0.25
"""How long a probe waits for a lookup before it uses the last answer."""
TOGETHER_SECONDS = 0.25
"""Lookups that begin within so much time begin together: that one is answered says nothing of the others."""
SLOW_SECONDS = 1.0
"""The duration from which a lookup counts as slow."""
MOST_THREADS = 256
"""The most lookups at once, of which names that were answered quickly last time have a quarter for themselves."""

_HOSTS_FILE = Path("/etc/hosts")
_RESOLVER_FAILURES = frozenset(getattr(socket, name, None) for name in ("EAI_AGAIN", "EAI_FAIL", "EAI_MEMORY"))
"""The codes of failures that are no answer about the name."""

Lookup = Callable[[str], Sequence[str]]
"""Returns the addresses of a name, in the order in which they are tried; raises what `socket.getaddrinfo` raises."""


class NameUnknown(Exception):
    """The name has no address, or its lookup fails although the resolver responds. The text is for operators."""


def system_lookup(host: str) -> Sequence[str]:
    """Return the addresses of a name by this machine's resolver. Blocks."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_literal(host: str) -> bool:
    """Return whether a host is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Kind(enum.Enum):
    """The kinds of lookups, by how the last lookup of the name went."""

    QUICK = "quick"
    NEW = "new"
    SLOW = "slow"


_THREADS = {_Kind.QUICK: MOST_THREADS // 4, _Kind.NEW: MOST_THREADS // 4, _Kind.SLOW: MOST_THREADS // 8}
"""How many threads may begin lookups of a kind. A lookup that turns out to be slow leaves its kind."""


@dataclass(slots=True, eq=False)
class _Name:
    """What is known of a name.

    Attributes:
        addresses: The last answer; empty if there is none, or if the name does not exist any more.
        answered_at: When the last answer was requested.
        silent_since: When the first lookup began to which the resolver did not respond: after the last answer, after a
            lookup that this router could not make, or when the name was last at fault. Infinity if there is none.
        failure: The exception of the last lookup, if it failed.
        trouble: Set if that was this router's own trouble.
        is_at_fault: Whether the resolver did not respond to the last lookup, and responds for other names.
        kind: The kind of the next lookup, or of the one under way.
        ended: Done when the lookup under way ends.
        requested_at: When the lookup under way was requested.
        began_at: When the lookup under way began; infinity while it waits for a thread.
        is_in_file: Whether the hosts file has the name, so that an answer says nothing of the resolver.
    """

    host: str
    addresses: tuple[str, ...] = ()
    answered_at: float = -math.inf
    silent_since: float = math.inf
    failure: Exception | None = None
    trouble: OwnTrouble | None = None
    is_at_fault: bool = False
    kind: _Kind = _Kind.NEW
    ended: asyncio.Future[None] | None = None
    requested_at: float = 0.0
    began_at: float = math.inf
    is_in_file: bool = False


@dataclass
class Names:
    """The answers of the resolver, for one event loop.

    Attributes:
        lookup: Looks up one name; see `Lookup`. Called in threads.
    """

    lookup: Lookup | None = None
    _names: dict[str, _Name] = field(default_factory=dict)
    _waiting: dict[_Kind, deque[_Name]] = field(default_factory=lambda: {kind: deque() for kind in _Kind})
    _running: Counter[_Kind] = field(default_factory=Counter)
    _answer_began_at: float = -math.inf
    """When the latest lookup began that the resolver has answered."""
    _test: _Name | None = None
    """The name that was looked up last to find out whether the resolver responds."""
    _is_closed: bool = False

    def retain(self, hosts: Iterable[str]) -> None:
        """Forget all names but these, except those whose lookup is under way."""
        kept = set(hosts)
        for host in [host for host, name in self._names.items() if name.ended is None and host not in kept]:
            del self._names[host]

    def close(self) -> None:
        """Begin no more lookups by oneself. The threads of those under way end by themselves; nobody waits for them."""
        self._is_closed = True
        for waiting in self._waiting.values():
            while waiting:
                self._end(waiting.popleft())

    async def addresses(self, host: str, *, max_age_seconds: float) -> tuple[str, ...]:
        """Return the addresses of a name, at least one. Without a last answer, it waits as long as the lookup takes.

        Args:
            host: The name.
            max_age_seconds: The age from which an answer is replaced; the last answer is used if that takes too long.

        Raises:
            NameUnknown: The name has no address, or only its own lookup fails.
            OwnTrouble: The resolver does not respond, and there is no last answer.
        """
        name = self._names.get(host) or self._names.setdefault(host, _Name(host))
        if name.addresses and self._now() - name.answered_at < max_age_seconds:
            return name.addresses
        ended = self._start(name)
        if not name.addresses:
            await asyncio.shield(ended)
        elif (left := name.requested_at + PATIENCE_SECONDS - self._now()) > 0:
            await asyncio.wait([ended], timeout=left)
        if name.addresses:
            return name.addresses
        raise self._failure(name)

    def recent(self, host: str, max_age_seconds: float) -> tuple[str, ...]:
        """Return the addresses of a name without a lookup; none if the last answer is that old."""
        name = self._names.get(host)
        is_recent = name is not None and self._now() - name.answered_at < max_age_seconds
        return name.addresses if name is not None and is_recent else ()

    def answered_at(self, host: str) -> float:
        """Return when the last answer about a name was requested."""
        name = self._names.get(host)
        return -math.inf if name is None else name.answered_at

    def failure_of(self, host: str) -> NameUnknown | OwnTrouble:
        """Return the failure of a name whose lookup has not ended in time, and that has no last answer."""
        name = self._names.get(host) or _Name(host)
        if self._is_resolver_up(name.began_at):
            return NameUnknown("the lookup of the name hangs, others do not")
        self._look_up_another(name)
        return resolver_trouble()

    def _start(self, name: _Name) -> asyncio.Future[None]:
        if name.ended is not None:
            return name.ended
        name.ended = ended = asyncio.get_running_loop().create_future()
        name.requested_at = self._now()
        self._waiting[name.kind].append(name)
        self._run_waiting()
        return ended

    def _run_waiting(self) -> None:
        for kind, waiting in self._waiting.items():
            most = MOST_THREADS - (0 if kind is _Kind.QUICK else _THREADS[_Kind.QUICK])
            while waiting and self._running[kind] < _THREADS[kind] and self._running.total() < most:
                self._run(waiting.popleft())

    def _run(self, name: _Name) -> None:
        loop = asyncio.get_running_loop()
        name.began_at = began_at = self._now()
        self._running[name.kind] += 1
        alarm = loop.call_later(SLOW_SECONDS, self._count_as_slow, name)
        lookup = self.lookup or system_lookup

        def look_up() -> tuple[Sequence[str], bool]:
            return lookup(name.host), _is_in_hosts_file(name.host)

        def done(result: tuple[Sequence[str], bool] | Exception) -> None:
            alarm.cancel()
            self._running[name.kind] -= 1
            self._take(name, result, began_at)
            self._run_waiting()

        try:
            start_call(look_up, done)
        except RuntimeError as error:
            done(error)

    def _look_up_another(self, failing: _Name) -> None:
        """Find out whether the resolver responds, by the name whose last answer from it is the oldest."""
        since = failing.began_at if failing.began_at < math.inf else failing.silent_since
        if self._is_closed or self._is_resolver_up(since) or (self._test is not None and self._test.ended is not None):
            return
        others = [
            name
            for name in self._names.values()
            if name is not failing and name.kind is _Kind.QUICK and name.ended is None and not name.is_in_file
        ]
        if others and self._now() - since >= TOGETHER_SECONDS:
            self._test = min(others, key=lambda name: name.answered_at)
            self._start(self._test)

    def _count_as_slow(self, name: _Name) -> None:
        """Free the place of a lookup that hangs for other names of its kind."""
        self._running[name.kind] -= 1
        name.kind = _Kind.SLOW
        self._running[name.kind] += 1
        self._run_waiting()
        self._look_up_another(name)

    def _take(self, name: _Name, result: tuple[Sequence[str], bool] | Exception, began_at: float) -> None:
        now = self._now()
        if isinstance(result, Exception):
            self._take_failure(name, result, began_at)
        else:
            addresses, name.is_in_file = result
            name.addresses, name.answered_at = tuple(addresses), began_at
            name.failure = name.trouble = None
            name.silent_since, name.is_at_fault = math.inf, False
            if not name.is_in_file:
                self._answer_began_at = max(self._answer_began_at, began_at)
        is_quick = now - began_at < SLOW_SECONDS and name.trouble is None
        name.kind = _Kind.QUICK if is_quick else _Kind.SLOW
        self._end(name)

    def _end(self, name: _Name) -> None:
        name.began_at = math.inf
        if name.ended is not None and not name.ended.done():
            name.ended.set_result(None)
        name.ended = None

    def _take_failure(self, name: _Name, failure: Exception, began_at: float) -> None:
        """Drop the last answer only if this failure is one as well."""
        name.failure, name.trouble = failure, own_trouble(failure)
        since, name.silent_since, name.is_at_fault = min(name.silent_since, began_at), math.inf, False
        if name.trouble is not None and str(name.trouble) == RESOLVER_REASON:
            name.is_at_fault = self._is_resolver_up(since)
            name.silent_since = began_at if name.is_at_fault else since
            if not name.addresses:
                asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self._look_up_another, name)
        elif name.trouble is None and isinstance(failure, socket.gaierror) and failure.errno not in _RESOLVER_FAILURES:
            name.addresses = ()
            self._answer_began_at = max(self._answer_began_at, began_at)

    def _failure(self, name: _Name) -> Exception:
        if name.trouble is not None and not name.is_at_fault:
            return name.trouble
        if name.failure is None:
            return NameUnknown("the name has no address")
        words = name.failure.strerror if isinstance(name.failure, OSError) else None
        return NameUnknown((words or str(name.failure)).lower())

    def _is_resolver_up(self, since: float) -> bool:
        """Return whether a name was answered, not by the hosts file, whose lookup began clearly later than this."""
        return self._answer_began_at >= max(since + TOGETHER_SECONDS, self._now() - LOOKUP_AGAIN_SECONDS)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _is_in_hosts_file(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return host in _names_in_hosts_file(_HOSTS_FILE.stat().st_mtime_ns)
    except OSError:
        return False


@functools.lru_cache(maxsize=1)
def _names_in_hosts_file(_: int) -> frozenset[str]:
    lines = _HOSTS_FILE.read_text(errors="replace").lower().splitlines()
    return frozenset(name for line in lines for name in line.partition("#")[0].split()[1:])
