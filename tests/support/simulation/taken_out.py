"""What the package does against faults, and how to take each of these out of it, to see what breaks then."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast
from unittest import mock

from shared_registry.store import channel
from shared_registry.store.lua import assemble, assemble_all, command_names
from tests.support.simulation.faults import Kind


@dataclass(frozen=True, slots=True)
class Lua:
    """A piece of the Lua commands, and what takes its place."""

    piece: str
    other: str = ""


@dataclass(frozen=True, slots=True)
class Python:
    """A piece of a method, and what takes its place."""

    where: str
    piece: str
    other: str

    def changed(self) -> Callable[..., Any]:
        """Return the method with the other piece.

        Raises:
            LookupError: The method does not have the piece.
        """
        module_name, _, names = self.where.partition(":")
        module = importlib.import_module(module_name)
        class_name, _, name = names.rpartition(".")
        owner = getattr(module, class_name) if class_name else module
        text = textwrap.dedent(inspect.getsource(getattr(owner, name)))
        if self.piece not in text:
            raise LookupError(f"{self.where} has no {self.piece!r}")
        made: dict[str, Any] = {}
        future = "from __future__ import annotations\n"
        exec(compile(future + text.replace(self.piece, self.other), self.where, "exec"), vars(module), made)
        return cast("Callable[..., Any]", made[name])


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that the package does.

    Attributes:
        changes: Take it out.
        kinds: The faults against which it does this.
    """

    changes: tuple[Lua | Python, ...]
    kinds: tuple[Kind, ...]


ANNOUNCEMENT = "shared_registry.announcing.announcement:Announcement"
MIRROR = "shared_registry.mirror.mirror:Mirror"
ELECTION = "shared_registry.leader.election:Election"
LEDGER = "shared_registry.leases.ledger:Ledger"
QUEUE = "shared_registry.leases.queue:RouterQueue"
RECONCILER = "shared_registry.leases.reconciliation:Reconciler"

RULES = {
    "a report carries the leader's token and epoch": Rule(
        (
            Lua(
                "if holder[1] ~= token or holder[2] ~= epoch then\n  return {'fenced'}",
                "if false then\n  return {'fenced'}",
            ),
        ),
        (Kind.CUT_OFF, Kind.PAUSE),
    ),
    "a renewal carries the leader's token": Rule(
        (Lua("if redis.call('HGET', keys.leader, 'token') ~= token then", "if false then"),),
        (Kind.SLOW, Kind.CLOCK),
    ),
    "a report is applied once": Rule(
        (Lua("if tonumber(batch) <= stored_number(holder[3], 0) then", "if false then"),),
        (Kind.REPEAT, Kind.LOSE_REPLIES),
    ),
    "an acquire that runs twice takes one slot": Rule(
        (
            Lua("if held then\n  return reply_held(held)\nend\n\nlocal waiter", "local waiter"),
            Lua(
                "or redis.pcall('HSETNX', namespace .. 'leases:' .. router, lease_id, url) ~= 1 then",
                "or redis.pcall('HSET', namespace .. 'leases:' .. router, lease_id, url) == nil then",
            ),
        ),
        (Kind.REPEAT, Kind.LOSE_REPLIES, Kind.FREEZE),
    ),
    "leases that nobody knows are released": Rule(
        (Python(f"{LEDGER}.knows", "return ", "return True or "),),
        (Kind.LOSE_REPLIES, Kind.OLDER_COPY),
    ),
    "leases that Redis lost are put back": Rule(
        (Python(f"{RECONCILER}._put_back", "if not leases:", "if True:"),), (Kind.CUT_OFF, Kind.FLUSH)
    ),
    "leases are compared": Rule(
        (Python(f"{RECONCILER}._catch_up", "compares = is_due or self._is_in_doubt", "compares = False"),),
        (Kind.CUT_OFF, Kind.OLDER_COPY),
    ),
    "leases that are put back are counted once": Rule(
        (
            Lua("if is_there and not has_moved and elsewhere ~= url then", "if is_there and not has_moved then"),
            Lua("if elsewhere and not replica_refusal(elsewhere) then", "if elsewhere and elsewhere ~= url then"),
        ),
        (Kind.FLUSH, Kind.CUT_OFF, Kind.REPEAT, Kind.LOSE_REPLIES),
    ),
    "a heartbeat serves the queue": Rule(
        (Lua("local _, _, _, is_partial = serve_queue(now_ms)", "local is_partial = false"),),
        (Kind.FLUSH, Kind.LOSE_ALL, Kind.CRASH),
    ),
    "waiters ask whether they are still in the queue": Rule(
        (Python(f"{QUEUE}._poll", "if not asked:", "if True:"),),
        (Kind.FLUSH, Kind.OLDER_COPY, Kind.FAILOVER),
    ),
    "a router contributes its view after a loss": Rule(
        (Python(f"{MIRROR}._reload", "await self._on_lost_history()", "None"),), (Kind.FLUSH, Kind.LOSE_ALL, Kind.ADD)
    ),
    "a mirror checks the predecessor of an event": Rule(
        (Python(f"{MIRROR}._advance_by", "if not event.follows(self.revision, self.mark):", "if False:"),),
        (Kind.OLDER_COPY, Kind.ADD, Kind.REMOVE, Kind.DIES),
    ),
    "a mirror compares the marks of events": Rule(
        (
            Python("shared_registry.model.events:Event.follows", "and (not mark or", "and (True or"),
            Python(f"{MIRROR}._is_last", "self.revision and is_same_mark", "self.revision"),
        ),
        (Kind.CLOCK, Kind.FAILOVER, Kind.DRAIN, Kind.ENABLE),
    ),
    "a mirror notices another history": Rule(
        (Python(f"{MIRROR}._poll", "raise Gap", "Gap"),),
        (Kind.FLUSH, Kind.CLOCK),
    ),
    "nobody is reaped soon after an outage": Rule(
        (Lua("  reap_after = now_ms + expiry\n", "  reap_after = 0\n"),), (Kind.FREEZE, Kind.RESTART)
    ),
    "epochs exceed what the candidate has seen": Rule(
        (Lua("math.max(last + 1, now_ms, tonumber(seen_epoch) + 1)", "math.max(last + 1, now_ms)"),),
        (Kind.FLUSH, Kind.CLOCK),
    ),
    "a config file does not bring back a removed replica": Rule(
        (Lua("if (mode == 'seed' or is_discovered(mode)) and admin == 'removed'", "if false"),),
        (Kind.REMOVE, Kind.STOP),
    ),
    "a config file does not override an operator": Rule(
        (
            Lua(
                "if mode == 'seed' and not is_new and (source == 'explicit' or is_discovered(source)) then",
                "if false then",
            ),
        ),
        (Kind.ADD, Kind.STOP),
    ),
    "a clock that was set back does not keep the dead": Rule(
        (Lua("if tonumber(redis.call('ZSCORE', keys.routers, far)) > now_ms + own then", "if false then"),),
        (Kind.CLOCK, Kind.CRASH),
    ),
    "a leader's lock ends although the clock was set back": Rule(
        (Lua("redis.call('PEXPIRE', keys.leader, whole(longest))", ""),), (Kind.CLOCK, Kind.CRASH, Kind.PAUSE)
    ),
    "no announced replica expires soon after an outage": Rule(
        (Lua("local again_ms = resumed_at_ms + state.ttl", "local again_ms = 0"),),
        (Kind.FREEZE, Kind.RESTART, Kind.POD_DRAIN),
    ),
    "an announced replica without heartbeats expires": Rule(
        (Lua("local again_ms = resumed_at_ms + state.ttl", "local again_ms = now_ms + state.ttl"),),
        (Kind.POD_LOST,),
    ),
    "where most are silent, those that probes reach stay": Rule(
        (
            Lua(
                "if again_ms <= now_ms and state.is_reached and spares_reached(now_ms, state.ttl) then", "if false then"
            ),
        ),
        (Kind.PODS_CUT_OFF,),
    ),
    "the holder of an address keeps it while it sends heartbeats": Rule(
        (Lua("if is_held(expired, stored.ttl_ms, stored.last_heartbeat_at_ms, now_ms) then", "if false then"),),
        (Kind.POD_TWIN,),
    ),
    "an outage gives no address away": Rule(
        (Lua("or is_outage(stored_number(routers[2], now_ms), now_ms)", "or false"),),
        (Kind.CLOCK, Kind.POD_TWIN, Kind.RESTART),
    ),
    "a pod that returns stays drained": Rule(
        (Lua("'admin', state or 'active', 'admin_since_ms'", "'admin', 'active', 'admin_since_ms'"),),
        (Kind.POD_DRAIN, Kind.POD_CRASH),
    ),
    "a pod at another address stays drained": Rule(
        (Lua("take_over_name(one.given.name, url, mode)", ""),),
        (Kind.POD_DRAIN, Kind.POD_MOVE),
    ),
    "an instance that was removed stays removed": Rule(
        (Lua("if (is_removed and is_new) or (is_same and admin == 'removed' and not expired) then", "if false then"),),
        (Kind.POD_REMOVE,),
    ),
    "it stays removed after another instance": Rule(
        (Lua("local is_removed = is_announced and stored.removed_instance == one.given.instance", "local is_removed"),),
        (Kind.POD_REMOVE, Kind.POD_TWIN),
    ),
    "a removal outlives a loss": Rule(
        (Lua("redis.call('HSET', replica, 'removed_instance', removed_instance)", ""),),
        (Kind.POD_REMOVE, Kind.FLUSH),
    ),
    "an expired replica takes no sessions": Rule(
        (
            Lua(
                "whole(now_ms), 'admin_reason', reason,\n      'removes_when_drained', '1', 'expired_at_ms'",
                "whole(now_ms), 'admin', 'active', 'expired_at_ms'",
            ),
        ),
        (Kind.POD_LOST,),
    ),
    "a program whose replica is unknown announces it again": Rule(
        (Python(f"{ANNOUNCEMENT}._beat", "return await self._announce()", "return self._is_held.set() or True"),),
        (Kind.FLUSH, Kind.POD_CUT_OFF),
    ),
    "an announcement is retried soon": Rule(
        (Python(f"{ANNOUNCEMENT}._run", "RETRIES_PER_TTL", "0.2"),),
        (Kind.POD_CUT_OFF, Kind.RESTART),
    ),
    "a clock that was set back keeps no dead pod": Rule(
        (Lua("    shorten_far_ahead(now_ms)\n", ""),),
        (Kind.CLOCK, Kind.POD_LOST),
    ),
    "a leader ends its term by its own clock": Rule(
        (Python(f"{ELECTION}._deadline", "return ", "return 1e9 + "),),
        (Kind.CUT_OFF, Kind.CUT_REPLIES),
    ),
}


@contextlib.contextmanager
def without(rule: Rule) -> Iterator[None]:
    """Take a rule out of the package while this context is open.

    Raises:
        LookupError: The package does not have it.
    """
    lua = [change for change in rule.changes if isinstance(change, Lua)]
    for change in lua:
        if not any(change.piece in assemble(name) for name in command_names()):
            raise LookupError(f"no command has {change.piece!r}")

    def changed() -> dict[str, str]:
        texts = assemble_all()
        for change in lua:
            texts = {name: text.replace(change.piece, change.other) for name, text in texts.items()}
        return texts

    with contextlib.ExitStack() as stack:
        stack.callback(channel.scripts.cache_clear)
        stack.enter_context(mock.patch.object(channel, "assemble_all", changed))
        for method in (change for change in rule.changes if isinstance(change, Python)):
            stack.enter_context(mock.patch(method.where.replace(":", "."), method.changed()))
        channel.scripts.cache_clear()
        yield
