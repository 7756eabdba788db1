"""`python -m shared_registry.cli.worker`: one worker of `shared-registry serve --workers`, which starts it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

from shared_registry.aio.garbage import no_collections
from shared_registry.aio.process_channel import ProcessChannel
from shared_registry.aio.stop_signals import ignore_for_good
from shared_registry.cli.exit_codes import OK, exit_code
from shared_registry.cli.lean_imports import lean_imports
from shared_registry.cli.log_output import log_to_stderr, set_log_level
from shared_registry.cli.serving_loop import serving_loop_factory
from shared_registry.errors import RegistryError


def main(listener: int, channel: int) -> int:
    """Serve clients until the parent says stop. Return the exit code.

    Args:
        listener: The descriptor of the listening socket.
        channel: The descriptor of the socket to the parent.
    """
    ignore_for_good()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it as well, and says what to do
    with asyncio.Runner(loop_factory=serving_loop_factory()) as runner:
        return runner.run(_serve(socket.socket(fileno=listener), socket.socket(fileno=channel)))


async def _serve(listener: socket.socket, to_parent: socket.socket) -> int:
    with no_collections(), lean_imports():
        from shared_registry.api.address import admin_address  # noqa: PLC0415
        from shared_registry.proxy import descriptors  # noqa: PLC0415
        from shared_registry.proxy.worker import Worker  # noqa: PLC0415
        from shared_registry.proxy.worker_messages import Begin, Failed  # noqa: PLC0415
        from shared_registry.telemetry.works import telemetry_works  # noqa: PLC0415
    channel = await ProcessChannel.over(to_parent)
    begin = await channel.receive()
    if not isinstance(begin, Begin):
        return OK  # the parent has ended
    log_to_stderr(as_json=begin.as_json, is_service=True, worker=begin.number)
    set_log_level(begin.config)
    descriptors.raise_soft_limit()
    try:
        with admin_address(begin.config, worker=begin.number) as admin:
            beside = [*admin.works, *telemetry_works(begin.config)]
            await Worker(channel, begin, on_reload=set_log_level, beside=beside).serve(listener)
    except RegistryError as error:
        channel.send(Failed(str(error)))
        await channel.flush()
        return exit_code(error)
    return OK


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
