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


def pack(args: tuple[Any, ...]) -> bytes:
    """Return a command as bytes to send. Its name may be two words, such as SCRIPT LOAD.

    Raises:
        TypeError: An argument has a type that is not supported in C.
        ValueError: An argument is too long.
    """
    name = args[0]
    packed: bytes = pack_command((*name.split(), *args[1:]) if " " in name else args)
    return packed


class _PacksInC(_Base):
    """Mixed in before a connection class of redis-py, to pack commands in C."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """Return the command as bytes to send."""
        if isinstance(args[0], str):
            try:
                return [pack(args)]
            except (TypeError, ValueError):
                pass  # redis-py packs it, or raises its own error
        return super().pack_command(*args)


def pack_in_c(pool: ConnectionPool) -> None:
    """Make new connections of this pool pack in C, unless the pool sets an encoding: C supports only UTF-8."""
    if "encoding" in pool.connection_kwargs:
        return
    base = pool.connection_class
    pool.connection_class = type(base.__name__, (_PacksInC, base), {})
