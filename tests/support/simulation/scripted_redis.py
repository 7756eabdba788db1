"""A Redis server in this process: it parses what clients send, executes it on a `Keyspace`, and can fail as told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from tests.support.simulation.environment import EPOCH_SECONDS
from tests.support.simulation.keyspace import Keyspace, ReplyError, Status
from tests.support.simulation.loop import Process, VirtualLoop
from tests.support.simulation.lua_runner import LuaRunner
from tests.support.simulation.wire import Connection

INFO = {
    "server": "# Server\r\nredis_version:7.2.0\r\nredis_mode:standalone\r\n",
    "memory": "# Memory\r\nmaxmemory_policy:noeviction\r\n",
}
ONCE_ONLY = ("record_outcome",)
"""What the package never sends a second time."""

Watch = Callable[[str, Sequence[str], Any], None]


class ScriptedRedis:
    """See the module.

    Attributes:
        keyspace: Its data.
        clock_offset_seconds: How far its clock is from the others.
        on_command: Called after each Lua command of the package with its name, its arguments and its reply.
        on_changed_again: Called with a command's name if its second run, at the same instant, changed something.
    """

    def __init__(
        self, loop: VirtualLoop, process: Process, lua: LuaRunner, names: dict[str, str], *, knows_scripts: bool
    ) -> None:
        """Start without data.

        Args:
            loop: The virtual time.
            process: The server's process.
            lua: Runs the commands.
            names: The package's commands by digest.
            knows_scripts: Whether routers have used this server before, so that it knows the commands already.
        """
        self._loop = loop
        self._process = process
        self._lua = lua
        self._names = names  # by digest
        self.clock_offset_seconds = 0.0
        self.keyspace = Keyspace(lambda: (EPOCH_SECONDS + loop.time() + self.clock_offset_seconds) * 1000)
        self.keyspace.on_append = self._wake
        self.on_command: Watch = lambda *_: None
        self.on_changed_again: Callable[[str], None] = lambda _: None
        self._sessions: dict[Session, None] = {}
        self._blocked: dict[str, dict[Session, None]] = {}
        self._to_wake: dict[Session, None] = {}
        lua.work_on(self.keyspace)
        lua.known = set(names) if knows_scripts else set()

    def accept(self, connection: Connection) -> Session:
        session = Session(self, connection)
        self._sessions[session] = None
        return session

    def forget(self, session: Session) -> None:
        self._sessions.pop(session, None)
        self.unblock(session)

    def restart(self) -> None:
        """End all connections, as a server does that dies. Scripts are forgotten."""
        self._lua.known.clear()
        for session in list(self._sessions):
            session.connection.break_off()
            self.forget(session)

    def block(self, session: Session, keys: Sequence[str]) -> None:
        for key in keys:
            self._blocked.setdefault(key, {})[session] = None

    def unblock(self, session: Session) -> None:
        for waiting in self._blocked.values():
            waiting.pop(session, None)
        self._to_wake.pop(session, None)

    def _wake(self, key: str) -> None:
        self._to_wake.update(dict.fromkeys(self._blocked.get(key, ())))

    def wake_all(self) -> None:
        """Answer the reads that were blocked and have something to read."""
        while self._to_wake:
            session = next(iter(self._to_wake))
            del self._to_wake[session]
            session.read_again()

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        return self._process.context.copy().run(self._loop.call_later, seconds, call)

    def execute(self, session: Session, words: list[str]) -> Any:
        """Execute a command, twice if the link says so."""
        name = words[0].upper()
        try:
            if name in ("EVALSHA", "EVAL"):
                return self._run_script(session, name, words)
            special = getattr(self, f"_do_{name.lower()}", None)
            return self.keyspace.execute(name, *words[1:]) if special is None else special(*words[1:])
        except ReplyError as error:
            return error

    def _run_script(self, session: Session, name: str, words: list[str]) -> Any:
        digest = self._lua.load(words[1]) if name == "EVAL" else words[1]
        count = int(words[2])
        keys, args = words[3 : 3 + count], words[3 + count :]
        command = self._names.get(digest, "?")
        self.keyspace.begin_script()
        reply = self._lua.run(digest, keys, args)
        self.on_command(command, args, reply)
        link = session.connection.link
        if link.repeats and command not in ONCE_ONLY:
            link.repeats -= 1
            before, first = self.keyspace.copied(), reply
            self.keyspace.begin_script()
            reply = self._lua.run(digest, keys, args)
            if before != self.keyspace.copied() and not was_served(first, reply):
                self.on_changed_again(command)
        return reply

    def _do_ping(self) -> Status:
        return Status("PONG")

    def _do_client(self, *_: str) -> Status:
        return Status("OK")

    def _do_select(self, _: str) -> Status:
        return Status("OK")

    def _do_info(self, section: str = "server") -> str:
        return INFO[section]


def was_served(first: Any, second: Any) -> bool:
    """Return whether a session joined the queue in the first run, and the second one served the queue.

    A waiter may get a replica that the caller could not use, which the caller itself never gets.
    """
    return isinstance(first, list) and first[:1] == ["waiting"] and second[0] in ("held", "spare")


class Session:
    """The server's end of one connection."""

    def __init__(self, server: ScriptedRedis, connection: Connection) -> None:
        self.server = server
        self.connection = connection
        self._reader = hiredis.Reader(encoding="utf-8")
        self._backlog: list[list[str]] = []
        self._read: tuple[list[str], list[str], int] | None = None
        self._timer: Any = None

    def received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (words := self._reader.gets()) is not False:
            self._backlog.append(words)
        self._work()

    def closed(self) -> None:
        self._end_read()
        self.server.forget(self)

    def _work(self) -> None:
        """Execute what was received, until a read blocks."""
        replies: list[bytes] = []
        while self._backlog and self._read is None:
            words = self._backlog.pop(0)
            if words[0].upper() == "XREAD":
                self._begin_read(words[1:], replies)
            else:
                replies.append(encoded(self.server.execute(self, words)))
        if replies:
            self.connection.to_client(b"".join(replies))
        self.server.wake_all()

    def _begin_read(self, words: list[str], replies: list[bytes]) -> None:
        at = [word.upper() for word in words].index("STREAMS")
        options = dict(zip([word.upper() for word in words[:at:2]], words[1:at:2], strict=True))
        names = words[at + 1 :]
        keys, after = names[: len(names) // 2], names[len(names) // 2 :]
        count = int(options.get("COUNT", "1000000"))
        try:
            found = self._found(keys, after, count)
        except ReplyError as error:
            replies.append(encoded(error))
            return
        if found or "BLOCK" not in options:
            replies.append(encoded(found or None, is_list=True))
            return
        self._read = keys, after, count
        self.server.block(self, keys)
        self._timer = self.server.call_later(int(options["BLOCK"]) / 1000, self._time_out)

    def read_again(self) -> None:
        """Answer a blocked read if there is something to read."""
        if self._read is not None and (found := self._found(*self._read)):
            self._answer_read(found)

    def _found(self, keys: list[str], after: list[str], count: int) -> list[Any]:
        pairs = zip(keys, after, strict=True)
        found = [[key, self.server.keyspace.read_after(key, last, count)] for key, last in pairs]
        return [one for one in found if one[1]]

    def _time_out(self) -> None:
        self._answer_read(None)

    def _answer_read(self, found: list[Any] | None) -> None:
        self._end_read()
        self.connection.to_client(encoded(found, is_list=True))
        self._work()

    def _end_read(self) -> None:
        if self._read is not None:
            self._read = None
            self._timer.cancel()
            self.server.unblock(self)


def encoded(value: Any, *, is_list: bool = False) -> bytes:
    """Return a reply as the protocol carries it."""
    if value is None:
        return b"*-1\r\n" if is_list else b"$-1\r\n"
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts).encode()


def _write(value: Any, parts: list[str]) -> None:
    if type(value) is list:
        parts.append(f"*{len(value)}\r\n")
        for one in value:
            if type(one) is str and one.isascii():
                parts.append(f"${len(one)}\r\n{one}\r\n")
            else:
                _write(one, parts)
    elif isinstance(value, Status):
        parts.append(f"+{value}\r\n")
    elif isinstance(value, str):
        size = len(value) if value.isascii() else len(value.encode())
        parts.append(f"${size}\r\n{value}\r\n")
    elif isinstance(value, int):
        parts.append(f":{value}\r\n")
    elif value is None:
        parts.append("$-1\r\n")
    else:
        parts.append(f"-{value}\r\n")
