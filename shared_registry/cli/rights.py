"""`shared-registry acl`: prints the least rights that a Redis user of a namespace needs."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from shared_registry.cli.access import address_document
from shared_registry.cli.console import print_json, print_line
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import ConfigOption, JsonOption, NamespaceOption, RedisOption, given
from shared_registry.store.rights import rights, sentinel_rights

commands = typer.Typer()


@commands.command(epilog="Examples: `shared-registry acl -n pool`; `shared-registry acl --user routers --json`")
def acl(
    context: typer.Context,
    *,
    user: Annotated[str, typer.Option("--user", help="Name of the user.")] = "shared-registry",
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the command that gives a Redis user the least rights with which routers and commands work.

    It connects to nothing. Put a password in the place of PASSWORD, and run the command at every server, Redis replicas
    as well. Where sentinels have users, the second command is for them.

    --json prints one object: redis, namespace, user, rules (for the servers), and sentinel_rules.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings = options.load(config)
    rules, sentinel_rules = rights(settings.namespace), sentinel_rights()
    if options.as_json:
        document = {"user": user, "rules": rules, "sentinel_rules": sentinel_rules}
        print_json({**address_document(settings), **document})
        return
    print_line(f"# namespace {settings.namespace}")
    print_line(shlex.join(["ACL", "SETUSER", user, "on", ">PASSWORD", *rules]))
    print_line("# at sentinels")
    print_line(shlex.join(["ACL", "SETUSER", user, "on", ">PASSWORD", *sentinel_rules]))
