"""Commands packed for the wire in C: redis-py does that for its blocking clients, and in Python for asyncio's.

A script call has some fifteen keys and arguments, and Python spends about as long on them as the server on the script.
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
    """Goes before a connection class of redis-py."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """Return the command as bytes to send."""
        name = args[0]
        if isinstance(name, str):
            try:
                # A name may be two words: SCRIPT LOAD.
                return [pack_command((*name.split(), *args[1:]) if " " in name else args)]
            except (TypeError, ValueError):
                pass  # what C does not take; redis-py knows what to do, or refuses it in its own words
        return super().pack_command(*args)


def pack_in_c(pool: ConnectionPool) -> None:
    """Let the connections that this pool will make pack in C, which knows no encoding but UTF-8."""
    if "encoding" in pool.connection_kwargs:
        return
    base = pool.connection_class
    pool.connection_class = type(base.__name__, (_PacksInC, base), {})
