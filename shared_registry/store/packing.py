"""Packs commands for the wire in C. redis-py does this for its blocking clients, but uses Python for asyncio.

A script call has about fifteen keys and arguments. Packing them in Python takes about as long as the script takes on
the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hiredis import pack_command

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection, ConnectionPool

    _Base = AbstractConnection
else:
    _Base = object


class _PacksInC(_Base):
    """Mixed in before a connection class of redis-py, to pack commands in C."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """Return the command as bytes to send."""
        name = args[0]
        if isinstance(name, str):
            try:
                # A name may be two words: SCRIPT LOAD.
                return [pack_command((*name.split(), *args[1:]) if " " in name else args)]
            except (TypeError, ValueError):
                pass  # not supported in C; redis-py packs it, or raises its own error
        return super().pack_command(*args)


def pack_in_c(pool: ConnectionPool) -> None:
    """Make new connections of this pool pack in C, unless the pool sets an encoding: C supports only UTF-8."""
    if "encoding" in pool.connection_kwargs:
        return
    base = pool.connection_class
    pool.connection_class = type(base.__name__, (_PacksInC, base), {})
