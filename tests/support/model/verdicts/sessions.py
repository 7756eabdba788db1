"""What a session's failure does: among peers it calls the prober and judges nothing."""

from __future__ import annotations

from tests.support.model.verdicts.keyspace import NEVER, Keyspace, Replica
from tests.support.model.verdicts.weighing import Weighing


def weigh_session(weighing: Weighing, replica: Replica, router: str, kind: str) -> str:
    """Count a failed session of a router: noted, reported, ejected or unhealthy."""
    keys, rules = weighing.keys, weighing.rules
    probers = [key for key in keys.routers if key != router and weighing.lives(key)]
    if not probers or not rules.has("sessions judge nothing"):
        return _judge(weighing, replica, router)
    counts = kind == "witness" or not rules.has("witnesses probe")
    if counts:
        known = keys.routers.get(router)
        replica.reports[known.machine if known else router] = keys.now
    if counts and _is_to_eject(weighing, replica):
        return _eject(weighing, replica)
    return _call_prober(weighing, replica)


def weigh_broken_session(weighing: Weighing, replica: Replica, router: str, client: str) -> str:
    """Count a session that broke after it was connected: noted, reported or ejected."""
    if not any(key != router and weighing.lives(key) for key in weighing.keys.routers):
        return "noted"
    replica.run += 1
    replica.run_clients.add(client)
    if _is_run_to_eject(weighing, replica):
        return _eject(weighing, replica)
    return _call_prober(weighing, replica)


def end_run(replica: Replica) -> None:
    """Forget broken sessions."""
    replica.run, replica.announced_at = 0, None
    replica.run_clients.clear()


def _eject(weighing: Weighing, replica: Replica) -> str:
    keys, settings, rules = weighing.keys, weighing.settings, weighing.rules
    replica.ejections += 1
    span = settings.ejection * replica.ejections if rules.has("an ejection ends") else NEVER
    replica.ejected_until = keys.now + span
    replica.reports.clear()
    end_run(replica)
    keys.emit("replica_ejected", replicas={replica.url: replica.view()})
    return "ejected"


def _call_prober(weighing: Weighing, replica: Replica) -> str:
    keys, rules = weighing.keys, weighing.rules
    is_due = not 0 <= keys.now - replica.reported_at < weighing.settings.interval
    if (is_due or not rules.has("reports once an interval")) and rules.has("sessions call the prober"):
        replica.reported_at = keys.now
        if replica.announced_at is None:
            replica.announced_at = keys.now
        keys.emit("replica_reported", replicas={replica.url: replica.view()})
        return "reported"
    return "noted"


def _judge(weighing: Weighing, replica: Replica, router: str) -> str:
    """Without peers: as the original, unless another router has had a success lately."""
    settings, keys = weighing.settings, weighing.keys
    replica.failures += 1
    replica.successes = 0
    if replica.status == "unhealthy" or replica.failures < settings.failure:
        return "noted"
    lately = settings.interval + settings.timeout + settings.grace
    is_outvoted = 0 <= keys.now - replica.outcome_ok_at <= lately and len(keys.routers) > 1
    if is_outvoted and weighing.rules.has("fresh successes outvote"):
        return "noted"
    weighing.turn_unhealthy(replica, router)
    return "unhealthy"


def _is_to_eject(weighing: Weighing, replica: Replica) -> bool:
    """Whether two machines reported it lately although probes succeed, and few enough are ejected."""
    keys, settings, rules = weighing.keys, weighing.settings, weighing.rules
    if not rules.has("two machines eject"):
        return False
    recent = [at for at in replica.reports.values() if 0 <= keys.now - at <= 2 * settings.interval]
    return len(recent) >= 2 and _may_eject(weighing, replica, max(replica.announced_at or 0, min(recent)))


def _is_run_to_eject(weighing: Weighing, replica: Replica) -> bool:
    """Whether enough sessions of several clients broke in a row, and other routers had the time to object."""
    keys, settings, rules = weighing.keys, weighing.settings, weighing.rules
    if not rules.has("a run ejects") or replica.run < settings.run or replica.announced_at is None:
        return False
    if len(replica.run_clients) < 2 and rules.has("one client ejects nothing"):
        return False
    had_time = keys.now - replica.announced_at >= settings.objection or not rules.has("others may object")
    return had_time and _may_eject(weighing, replica, replica.announced_at)


def _may_eject(weighing: Weighing, replica: Replica, since: int) -> bool:
    """Whether probes have succeeded since then, and few enough are ejected."""
    keys, settings, rules = weighing.keys, weighing.settings, weighing.rules
    if replica.status != "healthy" or replica.ejected_until > keys.now:
        return False
    if replica.failures or replica.last_ok_at < since:
        return False
    active = [one for one in keys.replicas.values() if one.admin == "active"]
    return ejected(keys) < max(1, len(active) * settings.ejection_percent // 100) or not rules.has(
        "ejection has a limit"
    )


def ejected(keys: Keyspace) -> int:
    return sum(one.ejected_until > keys.now and one.admin == "active" for one in keys.replicas.values())
