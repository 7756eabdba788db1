"""`shared-registry api-key`: makes API keys for clients of `serve`, and the lines by which a router knows them."""

from __future__ import annotations

import getpass
import secrets
import sys
from typing import Annotated

import typer

from shared_registry.cli.console import print_json, print_line
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import JsonOption, given
from shared_registry.config.api_keys import new_api_key
from shared_registry.errors import ConfigError

commands = typer.Typer(help="Make API keys for the clients of a router.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(metavar="[NAME]", help="The name of the key's owner.", show_default=False)]
KEY_BYTES = 32
LONGEST_LINE = 4096


@commands.command(epilog="Example: `shared-registry api-key new team-a >> /etc/shared-registry/api-keys`")
def new(context: typer.Context, *, name: NameArgument = "", as_json: JsonOption = False) -> None:
    """Make a random key. Print the key on standard error, and its line for `api_keys_file` on standard output.

    The line has the key's digest only, so give the key to its owner now: it cannot be shown again.

    --json prints one object on standard output: name, key, and line.
    """
    options = given(context, None, None, as_json=as_json)
    log_to_stderr()
    key = f"sk-{secrets.token_urlsafe(KEY_BYTES)}"
    made = new_api_key(name, key)
    if options.as_json:
        print_json({"name": made.name, "key": key, "line": made.line()})
        return
    sys.stderr.write(f"{key}\n")
    print_line(made.line())


@commands.command("hash", epilog="Example: `shared-registry api-key hash team-a < key.txt`")
def hash_key(context: typer.Context, *, name: NameArgument = "", as_json: JsonOption = False) -> None:
    """Print the line for `api_keys_file` of a key that exists. It reads the key from standard input.

    A key on the command line could be read by other users of this machine.

    --json prints one object: name, and line.
    """
    options = given(context, None, None, as_json=as_json)
    log_to_stderr()
    key = getpass.getpass("Key: ") if sys.stdin.isatty() else sys.stdin.readline(LONGEST_LINE)
    if not key.strip():
        raise ConfigError("api key: standard input has none; write it to one line")
    made = new_api_key(name, key.strip())
    if options.as_json:
        print_json({"name": made.name, "line": made.line()})
    else:
        print_line(made.line())
