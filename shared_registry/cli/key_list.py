"""`shared-registry keys`: prints the redis-cli commands that show a namespace, and their replies if asked to."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from shared_registry.admin.observer import Observer
from shared_registry.cli.access import address_document, observe
from shared_registry.cli.console import print_json, print_line, printable
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import ConfigOption, JsonOption, NamespaceOption, RedisOption, given
from shared_registry.cli.redis_cli import KeyCommand, key_commands, redis_cli
from shared_registry.store.keys import Keys

MOST_EACH = 20
"""The most replicas, and the most routers, that `--show` prints one by one; a registry may have thousands."""
Shown = tuple[KeyCommand, tuple[str, ...], Any]
commands = typer.Typer()


@commands.command(epilog="Examples: `shared-registry keys -n pool`; `shared-registry keys --show`")
def keys(
    context: typer.Context,
    *,
    show: Annotated[
        bool, typer.Option("--show", help="Run the commands here, without redis-cli, and print Redis's replies.")
    ] = False,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the redis-cli commands that show this namespace's data in Redis. All of them only read.

    Without --show it connects to nothing, and prints `<url>` for a replica's url and `<key>` for a router's key. A
    password is never printed: redis-cli takes it from REDISCLI_AUTH.

    --json prints one object: redis, namespace, redis_cli (the program with its options), note, and commands [{shows,
    words}]. With --show each command also has a reply, and a command about one replica or router is repeated for each
    of them, up to 20 times.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings = options.load(config)
    found = key_commands(Keys(settings.namespace))
    program, note = redis_cli(settings.redis_url)
    replies = (
        observe(settings, lambda observer: _ask(observer, found)) if show else [(one, one.arguments) for one in found]
    )
    if options.as_json:
        document = {
            **address_document(settings),
            "redis_cli": program,
            "note": note,
            "commands": list(map(_document, replies)),
        }
        print_json(document)
        return
    if note:
        print_line(f"# {note}")
    for command, arguments, *reply in replies:
        print_line(f"# {command.shows}")
        print_line(shlex.join([*program, *arguments]))
        for line in _lines(reply[0]) if reply else ():
            print_line(f"  {printable(line)}")


async def _ask(observer: Observer, found: Sequence[KeyCommand]) -> list[Shown]:
    names = {
        "replica": [record.key for record in (await observer.overview()).replicas][:MOST_EACH],
        "router": [one.info.key for one in (await observer.routers()).routers][:MOST_EACH],
    }
    commands_of = [
        (command, command.of(name)) for command in found for name in (names[command.each] if command.each else [""])
    ]
    return [(command, arguments, await observer.ask(arguments)) for command, arguments in commands_of]


def _document(shown: tuple[Any, ...]) -> dict[str, Any]:
    command, arguments, *reply = shown
    return {"shows": command.shows, "words": list(arguments), **({"reply": _plain(reply[0])} if reply else {})}


def _plain(reply: Any) -> Any:
    """Return a reply in JSON's types; redis-py returns some replies as sets and tuples."""
    if isinstance(reply, Mapping):
        return {str(field): _plain(value) for field, value in reply.items()}
    if isinstance(reply, set):
        return sorted(reply)
    return [_plain(one) for one in reply] if isinstance(reply, list | tuple) else reply


def _lines(reply: Any) -> Iterator[str]:
    reply = _plain(reply)
    if isinstance(reply, dict):
        yield from (f"{field}: {value}" for field, value in reply.items())
    elif isinstance(reply, list) and reply and isinstance(reply[0], list):
        for event_id, fields in reply:
            yield f"{event_id}: " + ", ".join(f"{field} {value}" for field, value in fields.items())
    elif isinstance(reply, list):
        yield from _pairs(reply)
    else:
        yield str(reply)
    if reply in ([], {}):
        yield "nothing"


def _pairs(reply: list[Any]) -> Iterator[str]:
    """Yield the lines of a list reply.

    The reply for a sorted set alternates members and scores. The reply for a set has only members, and no member of
    ours looks like a number.
    """
    if len(reply) % 2 == 0 and all(str(score).replace(".", "", 1).isdigit() for score in reply[1::2]):
        yield from (f"{member}: {score}" for member, score in zip(reply[::2], reply[1::2], strict=True))
    else:
        yield from map(str, reply)
