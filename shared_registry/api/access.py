"""Who may do what at the admin address: by tokens, and by what the settings allow to everybody.

Tokens are compared by their digest, so that the time of a comparison says nothing about them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from shared_registry.api.problems import ApiProblem
from shared_registry.api.tokens import Tokens
from shared_registry.config import RouterConfig
from shared_registry.config.admin_tokens import RIGHTS, AdminToken, Right
from shared_registry.config.api_keys import digest_of

OPEN_PAGES = frozenset({"/healthz", "/readyz"})
"""The pages of which load balancers and Kubernetes ask without a token."""
CALLS_A_SECOND = 500.0
MOST_CALLS = 3000.0
"""How many calls a client may make at once, before it may make so many a second only."""
MOST_CLIENTS = 10_000
CERTIFICATE = "shared_registry.certificate"
"""The extension of a scope with the name in the client's certificate, if that has been verified."""
CALLER = "shared_registry.caller"
"""The key of a scope with the name of the token's owner; empty without a token."""


class Access:
    """Decides about each request."""

    def __init__(self, config: RouterConfig, tokens: Tokens) -> None:
        """Set up.

        Args:
            config: The router's settings.
            tokens: Its tokens.
        """
        self._open = _up_to(config.admin_access)
        self._certified = _up_to(config.admin_client_access)
        self._tokens = tokens
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def caller(self, headers: Headers, certificate: str | None = None) -> AdminToken | None:
        """Return the token of a request, or what stands for it; `None` if it has none.

        Args:
            headers: The headers of the request.
            certificate: The name in the client's certificate, if there is one.

        Raises:
            ApiProblem: The token is not known.
        """
        given = _token_in(headers)
        if given is None:
            return None if certificate is None else AdminToken(certificate, b"", self._certified)
        token = self._tokens.value.get(digest_of(given.encode("latin-1")))
        if token is None:
            raise ApiProblem("no_token", "this token is not known", "send one of admin_tokens or admin_tokens_file")
        return token

    def require(self, right: Right, token: AdminToken | None) -> None:
        """Check that a request may be made.

        Raises:
            ApiProblem: It may not.
        """
        if right in self._open or (token is not None and right in token.rights):
            return
        if token is None:
            remedy = f"send Authorization: Bearer TOKEN, of a token that allows to {right}; see admin_tokens"
            raise ApiProblem("no_token", f"without a token nobody may {right} here", remedy)
        remedy = f"add the word {right} to its line in admin_tokens or admin_tokens_file"
        raise ApiProblem("not_allowed", f"this token does not allow to {right}", remedy)

    def is_open(self, right: Right) -> bool:
        """Whether everybody may do what a right allows."""
        return right in self._open

    def count(self, client: str, now: float) -> None:
        """Count a call of a client.

        Raises:
            ApiProblem: The client calls too often.
        """
        left, at = self._budgets.pop(client, (MOST_CALLS, now))
        left = min(MOST_CALLS, left + (now - at) * CALLS_A_SECOND)
        self._budgets[client] = max(left - 1, 0.0), now
        if len(self._budgets) > MOST_CLIENTS:
            self._budgets.popitem(last=False)
        if left < 1:
            detail = f"a client may make {CALLS_A_SECOND:g} calls a second"
            raise ApiProblem("too_many_requests", detail, "call less often", retry_after=1)


class ReadGuard:
    """An ASGI application in front of the pages, which asks for a token where the settings say so."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Guard an application."""
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        app = self._app
        if scope["path"] not in OPEN_PAGES:
            headers = Headers(scope=scope)
            try:
                certificate = scope.get("extensions", {}).get(CERTIFICATE, {}).get("name")
                token = self._access.caller(headers, certificate)
                self._access.require("read", token)
                if headers.get("sec-fetch-site") == "cross-site":
                    raise ApiProblem("not_allowed", "pages of other sites may not use this address", "open it directly")
                scope[CALLER] = token
            except ApiProblem as problem:
                app = problem.response()
        await app(scope, receive, send)


def _up_to(access: Right | Literal["none"]) -> frozenset[Right]:
    """Return the rights that a word of the settings has: its own, and those before it."""
    return frozenset() if access == "none" else frozenset(RIGHTS[: RIGHTS.index(access) + 1])


def _token_in(headers: Headers) -> str | None:
    """Return the token of a request; `None` if it has none. Two are none that is known."""
    given = headers.getlist("authorization")
    if not given:
        return None
    scheme, _, token = given[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" and len(given) == 1 else ""
