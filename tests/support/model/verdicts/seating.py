"""Sessions that take slots: they try, wait in the queue, and are compared with what was possible."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.model.verdicts.recorder import Recorder

RETRY = 250
LENGTH = 15_000


@dataclass
class Session:
    """One session, and what it has tried."""

    slot: int
    came_at: int
    spares: int = 0
    tried: list[str] = field(default_factory=list)


class Seating:
    """A queue over all routers in order of arrival; whoever fails on a spare replica keeps its place."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.world = recorder.world
        self.queue: deque[Session] = deque()
        self.waits: list[int] = []
        self.is_polling = False

    def come(self, slot: int) -> None:
        session = Session(slot, self.world.now)
        if self.queue or not self._try(session):
            self.queue.append(session)
            self._poll()

    def _poll(self) -> None:
        if self.is_polling:
            return
        self.is_polling = True

        def poll() -> None:
            for session in list(self.queue):
                session.tried = session.tried[-session.spares :] if session.spares else []
                if self._try(session):
                    self.queue.remove(session)
            self.is_polling = False
            if self.queue:
                self._poll()

        self.world.after(RETRY, poll)

    def _try(self, session: Session) -> bool:
        """Place it if that is possible now; a try that fails takes the timeout of a connect, but holds up nobody."""
        world = self.world
        while True:
            room = [url for url in world.namespace.ready() if self._has_room(url) and url not in session.tried]
            reply = world.execute(None, "acquire", (session.tried, session.spares))
            if reply[0] == "full":
                return False
            url = reply[1]
            if reply[0] == "spare":
                self._check_spare(session, url, room)
            if world.network.reaches(session.slot, url):
                self.waits.append(world.now - session.came_at)
                world.after(LENGTH, lambda url=url: world.execute(None, "release", (url,)))  # type: ignore[misc]
                return True
            world.execute(None, "release", (url,))
            session.tried.append(url)
            session.came_at -= world.settings.timeout  # counts as waiting

    def _has_room(self, url: str) -> bool:
        replica = self.world.namespace.keys.replicas[url]
        return replica.in_flight < replica.capacity

    def _check_spare(self, session: Session, url: str, room: list[str]) -> None:
        session.spares += 1
        world, recorder = self.world, self.recorder
        lately = {one for one, at in recorder.answered_at.items() if world.now - at <= world.settings.answered_within}
        healthy = [one for one in lately if world.namespace.keys.replicas[one].status == "healthy"]
        if session.spares > 2:
            recorder.violate("V13", f"a session tried {session.spares} replicas that are not healthy")
        if room:
            recorder.violate("V13", f"a session was sent to {url} although {room} had room")
        if url not in lately:
            recorder.violate("V13", f"a session was sent to {url}, which has not answered for an hour")
        if len(healthy) * 100 >= world.settings.panic_percent * len(lately):
            recorder.violate("V13", f"a session was sent to {url} although {len(healthy)} of {len(lately)} are healthy")

    def check_waits(self, median: int) -> None:
        waits = sorted(self.waits)
        self.recorder.worst["median wait"] = waits[len(waits) // 2]
        if waits[len(waits) // 2] > median:
            self.recorder.violate("V13", f"the median session waited {waits[len(waits) // 2]} ms")
