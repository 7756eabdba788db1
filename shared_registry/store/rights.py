"""The least rights of a Redis user with which routers and commands work. Pure; `shared-registry acl` prints them."""

from __future__ import annotations

OF_CONNECTIONS = ("asking", "auth", "client|setname", "cluster|slots", "hello", "ping", "select")
OF_SCRIPTS = ("eval", "evalsha")
OF_READS = (
    *("hget", "hgetall", "hlen", "hmget", "hscan", "hvals", "exists", "get", "hexists", "pttl", "scard", "sismember"),
    *(
        "smembers",
        "strlen",
        "type",
        "xrange",
        "xread",
        "xrevrange",
        "zcard",
        "zcount",
        "zrange",
        "zrangebyscore",
        "zrank",
    ),
    *("zrevrange", "zscan", "zscore", "info", "scan", "time", "xlen"),
)
OF_WRITES = (
    *("del", "hdel", "hincrby", "hset", "hsetnx", "persist", "pexpire", "sadd", "set", "srem", "unlink", "xadd"),
    *("xtrim", "zadd", "zrem", "zremrangebyscore"),
)
AT_SENTINELS = ("auth", "client|setname", "hello", "ping", "sentinel|masters")


def rights(namespace: str) -> list[str]:
    """Return the rules of `ACL SETUSER` that allow one namespace, and nothing else.

    No command of them reaches keys outside the namespace, other users' connections, or the server's settings.
    """
    commands = sorted({*OF_CONNECTIONS, *OF_SCRIPTS, *OF_READS, *OF_WRITES})
    return ["resetkeys", "resetchannels", "-@all", f"~sr:{{{namespace}}}:*", *(f"+{name}" for name in commands)]


def sentinel_rights() -> list[str]:
    """Return the rules of a user at the sentinels."""
    return ["resetkeys", "resetchannels", "-@all", *(f"+{name}" for name in AT_SENTINELS)]
