"""The data of a Redis server, and the commands that the package uses. `test_scripted_redis` compares it with a server.

Values are text. Commands return what the protocol carries: text, numbers, `None`, lists of these, or `Status`.
"""

from __future__ import annotations

import enum
import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

V = TypeVar("V")

STREAM_SLACK = 100
"""By how many entries a stream may exceed an approximate limit."""


class ReplyError(Exception):
    """An error reply."""


class Status(str):
    """A status reply."""

    __slots__ = ()


WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
OK = Status("OK")


class Hash(dict[str, str]):
    """A hash."""

    type_name = "hash"

    def copied(self) -> Hash:
        return Hash(self)


class Set(dict[str, None]):
    """A set, in the order of insertion."""

    type_name = "set"

    def copied(self) -> Set:
        return Set(self)


class SortedSet(dict[str, float]):
    """A sorted set. Every change must go through `put` or `drop`."""

    type_name = "zset"

    def __init__(self) -> None:
        super().__init__()
        self._sorted: list[tuple[float, str]] | None = None

    def copied(self) -> SortedSet:
        other = SortedSet()
        other.update(self)
        return other

    def put(self, member: str, score: float) -> None:
        self[member] = score
        self._sorted = None

    def drop(self, member: str) -> bool:
        self._sorted = None
        return self.pop(member, None) is not None

    def sorted(self) -> list[tuple[float, str]]:
        if self._sorted is None:
            self._sorted = sorted((score, member) for member, score in self.items())
        return self._sorted


class Refusal(enum.Enum):
    """Why a server executes no writes, with the error that it replies."""

    READ_ONLY = "READONLY You can't write against a read only replica."
    NO_MEMORY = "OOM command not allowed when used memory > 'maxmemory'."


NEED_MEMORY = frozenset({"HINCRBY", "HSET", "HSETNX", "SADD", "SET", "XADD", "ZADD"})
"""The writes that are refused at maxmemory. A script that has made another write is not stopped any more."""
NEED_NO_MEMORY = frozenset({"DEL", "HDEL", "PERSIST", "PEXPIRE", "SREM", "UNLINK", "XTRIM", "ZREM", "ZREMRANGEBYSCORE"})
"""The other writes."""

Id = tuple[int, int]


class Stream:
    """A stream."""

    type_name = "stream"

    def __init__(self) -> None:
        self.entries: list[tuple[Id, list[str]]] = []
        self.last: Id = (0, 0)

    def copied(self) -> Stream:
        other = Stream()
        other.entries, other.last = list(self.entries), self.last  # what is in an entry never changes
        return other

    def __len__(self) -> int:
        return len(self.entries)

    def __bool__(self) -> bool:
        return True  # a stream without entries stays

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and (self.entries, self.last) == (other.entries, other.last)

    __hash__ = None  # type: ignore[assignment]


class String(str):
    """A string."""

    __slots__ = ()
    type_name = "string"


Value = Hash | Set | SortedSet | Stream | String


def _copied(values: dict[str, Value]) -> dict[str, Value]:
    return {key: value if isinstance(value, String) else value.copied() for key, value in values.items()}


class Keyspace:
    """All keys of a server.

    Attributes:
        now_ms: Returns the time on the server's clock.
        on_append: Called with the key of each stream that gets an entry.
        values: All keys; some may have expired.
    """

    def __init__(self, now_ms: Callable[[], float]) -> None:
        self.now_ms = now_ms
        self.on_append: Callable[[str], None] = lambda _: None
        self.values: dict[str, Value] = {}
        self._expires: dict[str, int] = {}
        self._has_written = False
        self._accepted: dict[str, Callable[..., Any]] = {
            name.removeprefix("do_").upper(): getattr(self, name) for name in dir(self) if name.startswith("do_")
        }
        self._commands = self._accepted

    def refuse(self, refusal: Refusal | None) -> None:
        """Refuse writes from now on; with `None`, accept them."""
        self._commands = dict(self._accepted)
        if refusal is not None:
            for name in NEED_MEMORY | NEED_NO_MEMORY:
                self._commands[name] = self._refusing(name, refusal)

    def _refusing(self, name: str, refusal: Refusal) -> Callable[..., Any]:
        command = self._accepted[name]

        def write(*words: str) -> Any:
            if refusal is Refusal.READ_ONLY or (name in NEED_MEMORY and not self._has_written):
                raise ReplyError(refusal.value)
            self._has_written = True
            return command(*words)

        return write

    def begin_script(self) -> None:
        """Note that the commands to come are those of another script."""
        self._has_written = False

    def execute(self, name: str, *words: str) -> Any:
        """Execute a command.

        Raises:
            ReplyError: The command failed.
        """
        command = self._commands.get(name) or self._commands.get(name.upper())
        if command is None:
            raise ReplyError(f"ERR unknown command '{name}'")
        return command(*words)

    def copied(self) -> dict[str, Any]:
        """Return a copy of all data."""
        self._purge()
        return {"values": _copied(self.values), "_expires": dict(self._expires)}

    def replace(self, copied: dict[str, Any]) -> None:
        """Replace all data by a copy."""
        self.values, self._expires = _copied(copied["values"]), dict(copied["_expires"])

    def get(self, key: str, kind: type[V]) -> V | None:
        """Return the value of a key; `None` if there is none.

        Raises:
            ReplyError: It is of another type.
        """
        if key in self._expires and self._expires[key] <= self.now_ms():
            self._delete(key)
        value = self.values.get(key)
        if value is not None and not isinstance(value, kind):
            raise ReplyError(WRONG_TYPE)
        return value

    def _made(self, key: str, kind: type[V]) -> V:
        value = self.get(key, kind)
        if value is None:
            value = kind()
            self.values[key] = value  # type: ignore[assignment]
        return value

    def _delete(self, key: str) -> bool:
        self._expires.pop(key, None)
        return self.values.pop(key, None) is not None

    def _drop_if_empty(self, key: str, value: Any) -> None:
        if not value:
            self._delete(key)

    def _purge(self) -> None:
        for key in list(self._expires):
            self.get(key, object)

    # Keys

    def do_del(self, *keys: str) -> int:
        return sum(self.get(key, object) is not None and self._delete(key) for key in keys)

    do_unlink = do_del

    def do_exists(self, *keys: str) -> int:
        return sum(self.get(key, object) is not None for key in keys)

    def do_type(self, key: str) -> Status:
        return Status(getattr(self.get(key, object), "type_name", "none"))

    def do_scan(self, cursor: str, *options: str) -> list[Any]:
        self._purge()
        prefix = options[options.index("MATCH") + 1].rstrip("*").replace("\\", "") if "MATCH" in options else ""
        return ["0", [key for key in self.values if key.startswith(prefix)]]

    def do_pexpire(self, key: str, ms: str) -> int:
        if self.get(key, object) is None:
            return 0
        if int(ms) <= 0:
            self._delete(key)
        else:
            self._expires[key] = int(self.now_ms()) + int(ms)
        return 1

    def do_persist(self, key: str) -> int:
        return int(self.get(key, object) is not None and self._expires.pop(key, None) is not None)

    def do_pttl(self, key: str) -> int:
        if self.get(key, object) is None:
            return -2
        return self._expires[key] - int(self.now_ms()) if key in self._expires else -1

    # Strings

    def do_get(self, key: str) -> str | None:
        return self.get(key, String)

    def do_set(self, key: str, value: str, *options: str) -> Status:
        self._expires.pop(key, None)
        self.values[key] = String(value)
        if options:
            self._expires[key] = int(self.now_ms()) + int(options[1])
        return OK

    def do_strlen(self, key: str) -> int:
        return len(self.get(key, String) or "")

    # Hashes

    def do_hget(self, key: str, field: str) -> str | None:
        value = self.get(key, Hash)
        return None if value is None else value.get(field)

    def do_hmget(self, key: str, *fields: str) -> list[str | None]:
        value = self.get(key, Hash)
        return [None] * len(fields) if value is None else [*map(value.get, fields)]

    def do_hgetall(self, key: str) -> list[str]:
        return [word for pair in (self.get(key, Hash) or {}).items() for word in pair]

    def do_hvals(self, key: str) -> list[str]:
        return list((self.get(key, Hash) or {}).values())

    def do_hlen(self, key: str) -> int:
        return len(self.get(key, Hash) or {})

    def do_hexists(self, key: str, field: str) -> int:
        return int(field in (self.get(key, Hash) or {}))

    def do_hscan(self, key: str, cursor: str, *_: str) -> list[Any]:
        return ["0", self.do_hgetall(key)]

    def do_hset(self, key: str, *pairs: str) -> int:
        value = self._made(key, Hash)
        before = len(value)
        value.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(value) - before

    def do_hsetnx(self, key: str, field: str, text: str) -> int:
        value = self._made(key, Hash)
        if field in value:
            return 0
        value[field] = text
        return 1

    def do_hincrby(self, key: str, field: str, by: str) -> int:
        value = self._made(key, Hash)
        number = int(value.get(field, "0")) + int(by)
        value[field] = str(number)
        return number

    def do_hdel(self, key: str, *fields: str) -> int:
        value = self.get(key, Hash)
        if value is None:
            return 0
        count = sum(value.pop(field, None) is not None for field in fields)
        self._drop_if_empty(key, value)
        return count

    # Sets

    def do_sadd(self, key: str, *members: str) -> int:
        value = self._made(key, Set)
        before = len(value)
        value.update(dict.fromkeys(members))
        return len(value) - before

    def do_srem(self, key: str, *members: str) -> int:
        value = self.get(key, Set)
        if value is None:
            return 0
        before = len(value)
        for member in members:
            value.pop(member, None)
        count = before - len(value)
        self._drop_if_empty(key, value)
        return count

    def do_scard(self, key: str) -> int:
        return len(self.get(key, Set) or ())

    def do_sismember(self, key: str, member: str) -> int:
        return int(member in (self.get(key, Set) or ()))

    def do_smembers(self, key: str) -> list[str]:
        return list(self.get(key, Set) or ())

    # Sorted sets

    def do_zadd(self, key: str, *words: str) -> int:
        options = tuple(itertools.takewhile(("CH", "NX", "XX").__contains__, words))
        pairs = words[len(options) :]
        value = self._made(key, SortedSet)
        count = 0
        for score, member in zip(pairs[::2], pairs[1::2], strict=True):
            before = value.get(member)
            if ("NX" if before is not None else "XX") in options:
                continue
            count += before is None or ("CH" in options and before != float(score))
            value.put(member, float(score))
        self._drop_if_empty(key, value)
        return count

    def do_zrem(self, key: str, *members: str) -> int:
        value = self.get(key, SortedSet)
        if value is None:
            return 0
        count = sum(value.drop(member) for member in members)
        self._drop_if_empty(key, value)
        return count

    def do_zcard(self, key: str) -> int:
        return len(self.get(key, SortedSet) or ())

    def do_zscore(self, key: str, member: str) -> str | None:
        value = self.get(key, SortedSet)
        return None if value is None or member not in value else text_of(value[member])

    def do_zrank(self, key: str, member: str) -> int | None:
        value = self.get(key, SortedSet)
        if value is None or member not in value:
            return None
        return bisect_left(value.sorted(), (value[member], member))

    def do_zrange(self, key: str, first: str, last: str, *options: str) -> list[str]:
        pairs = self._pairs(key)
        return _flat(pairs[_span(len(pairs), first, last)], "WITHSCORES" in options)

    def do_zrevrange(self, key: str, first: str, last: str, *options: str) -> list[str]:
        pairs = self._pairs(key)[::-1]
        return _flat(pairs[_span(len(pairs), first, last)], "WITHSCORES" in options)

    def do_zrangebyscore(self, key: str, least: str, most: str, *options: str) -> list[str]:
        pairs = self._between(key, least, most)
        if "LIMIT" in options:
            offset, count = (int(word) for word in options[options.index("LIMIT") + 1 :][:2])
            pairs = pairs[offset:] if count < 0 else pairs[offset : offset + count]
        return _flat(pairs, "WITHSCORES" in options)

    def do_zcount(self, key: str, least: str, most: str) -> int:
        return len(self._between(key, least, most))

    def do_zremrangebyscore(self, key: str, least: str, most: str) -> int:
        return self.do_zrem(key, *(member for _, member in self._between(key, least, most)))

    def do_zscan(self, key: str, cursor: str, *_: str) -> list[Any]:
        return ["0", _flat(self._pairs(key), with_scores=True)]

    def scores(self, key: str) -> set[float]:
        """Return the scores in a sorted set."""
        return {score for score, _ in self._pairs(key)}

    def _pairs(self, key: str) -> list[tuple[float, str]]:
        value = self.get(key, SortedSet)
        return [] if value is None else value.sorted()

    def _between(self, key: str, least: str, most: str) -> list[tuple[float, str]]:
        pairs = self._pairs(key)
        scores = [score for score, _ in pairs]
        low, high = float(least.removeprefix("(")), float(most.removeprefix("("))
        begin = (bisect_right if least.startswith("(") else bisect_left)(scores, low)
        end = (bisect_left if most.startswith("(") else bisect_right)(scores, high)
        return pairs[begin:end]

    # Streams

    def do_xadd(self, key: str, *words: str) -> str:
        limit = None
        rest = list(words)
        if rest[0] == "MAXLEN":
            limit = int(rest[2])
            rest = rest[3:]
        value = self._made(key, Stream)
        now = int(self.now_ms())
        value.last = (now, 0) if now > value.last[0] else (value.last[0], value.last[1] + 1)
        value.entries.append((value.last, rest[1:]))
        if limit is not None and len(value) >= limit + STREAM_SLACK:
            del value.entries[: len(value) - limit]
        self.on_append(key)
        return id_text(value.last)

    def do_xlen(self, key: str) -> int:
        return len(self.get(key, Stream) or ())

    def do_xtrim(self, key: str, _: str, least: str) -> int:
        value = self.get(key, Stream)
        if value is None:
            return 0
        before = len(value)
        value.entries = [entry for entry in value.entries if entry[0] >= id_of(least)]
        return before - len(value)

    def do_xrange(self, key: str, first: str, last: str, *options: str) -> list[Any]:
        entries = self._entries(key, first, last)
        return _listed(entries[: int(options[1])] if options else entries)

    def do_xrevrange(self, key: str, last: str, first: str, *options: str) -> list[Any]:
        entries = self._entries(key, first, last)[::-1]
        return _listed(entries[: int(options[1])] if options else entries)

    def put_entries(self, key: str, entries: Sequence[tuple[str, list[str]]]) -> None:
        """Make a stream of these entries."""
        value = self._made(key, Stream)
        value.entries = [(id_of(one), fields) for one, fields in entries]
        value.last = max((one for one, _ in value.entries), default=(0, 0))

    def read_after(self, key: str, after: str, count: int) -> list[Any]:
        """Return the entries of a stream after an id, as XREAD does."""
        return _listed(self._entries(key, f"({after}", "+")[:count])

    def _entries(self, key: str, first: str, last: str) -> list[tuple[Id, list[str]]]:
        value = self.get(key, Stream)
        if value is None:
            return []
        low = (0, 0) if first == "-" else id_of(first.removeprefix("("))
        high = (math.inf, math.inf) if last == "+" else id_of(last)
        begin = (bisect_right if first.startswith("(") else bisect_left)(value.entries, low, key=lambda entry: entry[0])
        return [entry for entry in value.entries[begin:] if entry[0] <= high]

    # The server

    def do_time(self) -> list[str]:
        seconds, rest = divmod(int(self.now_ms() * 1000), 1_000_000)
        return [str(seconds), str(rest)]


def text_of(number: float) -> str:
    """Return a score as the protocol carries it."""
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    return str(int(number)) if number == int(number) and abs(number) < 1e17 else repr(number)


def id_text(one: Id) -> str:
    return f"{one[0]}-{one[1]}"


def id_of(text: str) -> Id:
    ms, _, sequence = text.partition("-")
    return int(ms), int(sequence or 0)


def _span(length: int, first: str, last: str) -> slice:
    begin, end = int(first), int(last)
    begin = max(begin + length, 0) if begin < 0 else begin
    end = end + length if end < 0 else end
    return slice(begin, max(end + 1, 0))


def _flat(pairs: Sequence[tuple[float, str]], with_scores: bool) -> list[str]:
    if not with_scores:
        return [member for _, member in pairs]
    return [word for score, member in pairs for word in (member, text_of(score))]


def _listed(entries: Sequence[tuple[Id, list[str]]]) -> list[Any]:
    return [[id_text(one), fields] for one, fields in entries]
