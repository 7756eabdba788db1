"""API keys: who may use the router, and for which paths. A client sends its key in a header, as those of OpenAI do.

Keys are compared by their digest, so that the time of a comparison says nothing about them.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from shared_registry.aio.from_files import FromFiles
from shared_registry.config import RouterConfig
from shared_registry.config.api_keys import ApiKey, digest_of, read_api_keys
from shared_registry.config.key_file import lines_of_key_file
from shared_registry.config.route_rules import RouteRule
from shared_registry.errors import ConfigError
from shared_registry.proxy.answers import Answer, error_answer
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.routes import Routes
from shared_registry.proxy.websocket_client import offered_subprotocols

SUBPROTOCOL = b"openai-insecure-api-key."
"""What precedes the key in `Sec-WebSocket-Protocol`, as at OpenAI."""
PARAMETER = b"api_key="
"""What precedes the key in a query."""
OPEN_PAGES = frozenset({b"/healthz", b"/readyz"})
"""The pages of which load balancers and Kubernetes ask without a key."""

_Known = dict[bytes, tuple[str, Routes | None]]


class ApiKeys(FromFiles[_Known]):
    """The keys of a router: their names and the rules for their paths, by digest."""

    def __init__(self, config: RouterConfig) -> None:
        """Read the keys. Blocks while their file is read.

        Raises:
            ConfigError: The file cannot be read, or contains something else than keys, or no key.
        """
        files = [config.api_keys_file] if config.api_keys_file else []
        super().__init__(files, lambda: _keys_of(config), what="API keys")
        self._is_forwarded = config.forward_api_key
        self._place = config.websocket_api_key

    @classmethod
    def of(cls, config: RouterConfig) -> ApiKeys | None:
        """Return the keys that the settings name; `None` if the router needs no key.

        Raises:
            ConfigError: The keys cannot be read.
        """
        return cls(config) if config.api_keys or config.api_keys_file else None

    def refusal_of(self, exchange: Exchange, path: bytes) -> Answer | None:
        """Return the answer to a request without a key that fits; `None` if it has one.

        Its key is removed from the request, unless it is to be passed on, and the key's name becomes the exchange's.

        Args:
            exchange: The request.
            path: Its path in the normal form.
        """
        if path in OPEN_PAGES:
            return None
        given = self._take_from_headers(exchange)
        if exchange.is_handshake and self._place != "header":
            given += self._take_from_handshake(exchange)
        known = next(filter(None, map(self.value.get, given)), None)
        if known is None:
            exchange.keep_alive = exchange.keep_alive and exchange.is_received
            return _UNKNOWN if given else _MISSING
        exchange.key_name, routes = known
        if routes is not None and routes.place(exchange.method, path, is_websocket=exchange.is_handshake) == "none":
            return _NOT_FOR_THIS
        return None

    def _take_from_headers(self, exchange: Exchange) -> list[bytes]:
        """Return the digests of the keys in headers. Remove the known keys there, unless they are passed on."""
        given = {pair: digest_of(key) for pair in exchange.fields if (key := _key_in(pair)) is not None}
        if not self._is_forwarded:
            exchange.fields = [pair for pair in exchange.fields if given.get(pair, b"") not in self.value]
        return list(given.values())

    def _take_from_handshake(self, exchange: Exchange) -> list[bytes]:
        """Remove the keys from where browsers can put them, and return their digests. Pass one on in a header."""
        keys = _take_from_query(exchange) if self._place == "query" else _take_from_subprotocols(exchange)
        if self._is_forwarded and not any(name == b"authorization" for name, _ in exchange.fields):
            exchange.fields = [*exchange.fields, *((b"authorization", b"Bearer " + key) for key in keys[:1])]
        return [digest_of(key) for key in keys]


def _take_from_query(exchange: Exchange) -> list[bytes]:
    path, _, query = exchange.target.partition(b"?")
    parts = query.split(b"&")
    others = [part for part in parts if not part.startswith(PARAMETER)]
    exchange.target = b"?".join([path, b"&".join(others)] if any(others) else [path])
    return [unquote_to_bytes(part[len(PARAMETER) :]) for part in parts if part.startswith(PARAMETER)]


def _take_from_subprotocols(exchange: Exchange) -> list[bytes]:
    offered = offered_subprotocols(exchange.fields)
    plain = [one for one in offered if not one.startswith(SUBPROTOCOL)]
    fields = [pair for pair in exchange.fields if pair[0] != b"sec-websocket-protocol"]
    if plain:
        fields.append((b"sec-websocket-protocol", b", ".join(plain)))
    exchange.fields = fields
    return [one[len(SUBPROTOCOL) :] for one in offered if one.startswith(SUBPROTOCOL)]


def _key_in(pair: tuple[bytes, bytes]) -> bytes | None:
    """Return the key in a header; `None` if it has none."""
    name, value = pair
    if name == b"authorization":
        scheme, _, key = value.partition(b" ")
        return key.strip() if scheme.lower() == b"bearer" else None
    return value.strip() if name == b"x-api-key" else None


def _keys_of(config: RouterConfig) -> _Known:
    keys = list(config.api_keys)
    if config.api_keys_file:
        keys += _in_file(config.api_keys_file)
    return {key.digest: (key.name, _routes_of(key)) for key in keys}


def _in_file(file: str) -> tuple[ApiKey, ...]:
    name = "api_keys_file"
    keys = read_api_keys(lines_of_key_file(name, file), lambda number: f"{name}: {file} line {number}", first=1)
    if not keys:
        raise ConfigError(f"api_keys_file: {file} has no key; add one with `shared-registry api-key new NAME >> FILE`")
    return keys


def _routes_of(key: ApiKey) -> Routes | None:
    if not key.paths:
        return None
    rules = [RouteRule(path, "any") for path in key.paths]
    return Routes([*rules, RouteRule("*", "none")], placement="local")


def _refusal(text: str, challenge: bytes) -> Answer:
    return error_answer(401, "unauthorized", text, fields=((b"www-authenticate", challenge),))


_MISSING = _refusal("this router needs an API key; send it as Authorization: Bearer KEY", b"Bearer")
_UNKNOWN = _refusal("this API key is not known", b'Bearer error="invalid_token"')
_NOT_FOR_THIS = error_answer(403, "not_allowed", "this API key may not be used for this path")
