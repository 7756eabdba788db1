"""A client of redis-py whose commands share one connection; see `multiplexer`."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from shared_registry.store.lua import Script
from shared_registry.store.multiplexer import Multiplexer, OnReply
from shared_registry.store.packing import pack
from shared_registry.store.together import Together


class MultiplexedClient(Redis):
    """Executes commands and pipelines without transactions over one connection.

    A call that is cancelled does not break the connection. A call has no time limit of its own; see `channel.bounded`.
    """

    multiplexer: Multiplexer

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute a command."""
        return self._parsed(await self.multiplexer.call(pack(args)), args[0], options)

    def call_script(
        self,
        script: Script,
        words: tuple[str, ...],
        on_reply: OnReply | None = None,
        together: Together | None = None,
        argument: str | None = None,
    ) -> Awaitable[Any]:
        """Execute a script within the maximum time of a call.

        Args:
            script: The script.
            words: The key, and the arguments.
            on_reply: See `PendingReply`.
            together: Sends the call together with others of its kind, if there is an argument.
            argument: The call's argument then.
        """
        if together is None or argument is None:
            return self.multiplexer.call_script(script, words, on_reply)
        return together.call(script, words, argument, on_reply)

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> Any:  # noqa: FBT001, FBT002  redis-py's
        """Return a pipeline, which may have no transaction."""
        if transaction:
            raise exceptions.RedisError("this client has no transactions")
        pipeline: Any = super().pipeline(transaction, shard_hint)

        async def execute(raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002  redis-py's
            commands, pipeline.command_stack = pipeline.command_stack, []
            replies = await self._send_all(commands)
            if raise_on_error:
                for reply in replies:
                    if isinstance(reply, Exception):
                        raise reply
            return replies

        pipeline.execute = execute
        return pipeline

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  redis-py's
        """Close the connections."""
        await self.multiplexer.close()
        await super().aclose(close_connection_pool)

    async def _send_all(self, commands: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> list[Any]:
        answers = [self.multiplexer.call(pack(args)) for args, _ in commands]
        replies: list[Any] = []
        try:
            for answer, (args, options) in zip(answers, commands, strict=True):
                try:
                    replies.append(self._parsed(await answer, args[0], options))
                except exceptions.ResponseError as error:
                    replies.append(error)
        finally:
            for answer in answers[len(replies) :]:
                answer.cancel()
        return replies

    def _parsed(self, reply: Any, name: str, options: Mapping[str, Any]) -> Any:
        parse = self.response_callbacks.get(name)
        if parse is None:
            return reply
        return parse(reply, **{name: value for name, value in options.items() if name != "keys"})
