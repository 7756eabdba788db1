"""The tokens of the admin address, from the settings and from a file that is followed."""

from __future__ import annotations

from shared_registry.aio.from_files import FromFiles
from shared_registry.config import RouterConfig
from shared_registry.config.admin_tokens import AdminToken, read_admin_tokens
from shared_registry.config.key_file import lines_of_key_file
from shared_registry.errors import ConfigError


class Tokens(FromFiles[dict[bytes, AdminToken]]):
    """The tokens of a router, by digest."""

    def __init__(self, config: RouterConfig) -> None:
        """Read the tokens. Blocks while their file is read.

        Raises:
            ConfigError: The file cannot be read, or contains something else than tokens.
        """
        files = [config.admin_tokens_file] if config.admin_tokens_file else []
        super().__init__(files, lambda: _tokens_of(config), what="tokens of the admin address")


def _tokens_of(config: RouterConfig) -> dict[bytes, AdminToken]:
    tokens = list(config.admin_tokens)
    if config.admin_tokens_file:
        tokens += _in_file(config.admin_tokens_file)
    return {token.digest: token for token in tokens}


def _in_file(file: str) -> tuple[AdminToken, ...]:
    name = "admin_tokens_file"
    tokens = read_admin_tokens(lines_of_key_file(name, file), lambda number: f"{name}: {file} line {number}", first=1)
    if not tokens:
        raise ConfigError(f"{name}: {file} has no token; add a line such as 'ops: sha256:HEX operate'")
    return tokens
