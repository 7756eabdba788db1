"""The router's own page `/v1/models`: the models of all pools that are chosen by the model."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from shared_registry.config.pool_rules import PoolRule
from shared_registry.errors import RegistryError
from shared_registry.probing.connection import ProbeFailure, WholeRequest, connect_to_replica, exchange
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.probing.tls import TlsContexts
from shared_registry.proxy.answers import Answer
from shared_registry.proxy.pool import Pool
from shared_registry.proxy.pool_choice import PoolChoice
from shared_registry.proxy.remembered import Remembered
from shared_registry.urls import DEFAULT_PORTS

PATH = "/v1/models"
REMEMBERED_SECONDS = 5.0
TIMEOUT_SECONDS = 2.0
OK = 200
logger = logging.getLogger(__name__)


class Models:
    """Asks one healthy replica of each pool for its models, and lists those by which a request reaches that pool.

    Of a pool whose replica does not tell, the names in its rule are listed, as far as they are whole names.
    """

    def __init__(self, pools: Sequence[tuple[PoolRule, Pool]], choice: PoolChoice) -> None:
        """Ask nothing before the first call.

        Args:
            pools: The pools, with their rules.
            choice: Decides to which pool a model belongs.
        """
        self._pools = [(rule, pool) for rule, pool in pools if rule.models]
        self._choice = choice
        self._remembered = Remembered(self._read, seconds=REMEMBERED_SECONDS)

    async def page(self) -> Answer:
        """Return the page, in the form of OpenAI's."""
        return Answer(200, {"object": "list", "data": await self._remembered.get()})

    async def _read(self) -> list[dict[str, Any]]:
        found = await asyncio.gather(*(self._of_pool(rule, pool) for rule, pool in self._pools))
        by_id = {model["id"]: model for models in found for model in reversed(models)}
        return [by_id[name] for name in sorted(by_id)]

    async def _of_pool(self, rule: PoolRule, pool: Pool) -> list[dict[str, Any]]:
        listed = await self._listed(pool)
        if listed is None:
            names = [name for name in rule.models if not name.endswith("*")]
            listed = [{"id": name, "object": "model", "owned_by": rule.name} for name in names]
        return [model for model in listed if self._choice.pool_of_model(model["id"]) == rule.name]

    async def _listed(self, pool: Pool) -> list[dict[str, Any]] | None:
        """Return what a replica lists; `None` if none could be asked."""
        try:
            replica = pool.registry.select()
        except RegistryError:
            return None
        if replica is None:
            return None
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await _ask(replica.url, pool.connections.tls)
        except (ProbeFailure, OwnTrouble, OSError, ValueError, RecursionError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            extra = {"replica": replica.url}
            logger.info("models: %s does not list its models: %s", replica.url, reason, extra=extra)
            return None


async def _ask(url: str, tls: TlsContexts) -> list[dict[str, Any]]:
    """Return the models that a replica lists.

    Raises:
        ValueError: It answers with something else.
        ProbeFailure: It does not answer.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
    context = await tls.context() if parts.scheme == "https" else None
    connection, _ = await connect_to_replica([host], port, context, tls.server_name(host))
    try:
        path = parts.path.rstrip("/") + PATH
        fields = [("host", parts.netloc), ("accept", "application/json")]
        response = await exchange(connection, WholeRequest("GET", path, fields))
    finally:
        connection.abort()
    if response.status != OK:
        raise ValueError(f"HTTP {response.status}")
    document = json.loads(response.body)
    models = document.get("data") if isinstance(document, dict) else None
    if not isinstance(models, list):
        raise ValueError("it has no list named data")  # noqa: TRY004  not of the type, but of the document
    return [model for model in models if isinstance(model, dict) and isinstance(model.get("id"), str)]
