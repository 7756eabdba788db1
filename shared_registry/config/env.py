"""Reads settings from environment variables: `SHARED_REGISTRY_<SETTING>`, such as `SHARED_REGISTRY_REDIS_URL`.

`SHARED_REGISTRY_REPLICAS` holds urls with commas between, `SHARED_REGISTRY_HEALTH_CHECK_EXPECT` a JSON object, and
`none` unsets `SHARED_REGISTRY_MAX_STALENESS_SECONDS`. An empty variable counts as absent, for that is how compose files
pass on one that is not set.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import fields

from shared_registry.config.draft import Draft, Origin, OriginKind
from shared_registry.config.problems import nearest
from shared_registry.config.settings import RouterConfig
from shared_registry.model import ReplicaEndpoint

logger = logging.getLogger(__name__)

PREFIX = "SHARED_REGISTRY_"
VARIABLES = {f"{PREFIX}{item.name.upper()}": item.name for item in fields(RouterConfig)}
"""Every variable that is read, and the setting that it is."""

_NOT_OURS = re.compile(rf"{PREFIX}(TEST_.*|SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?)")
"""Test settings, and what Kubernetes sets in every pod beside a service named shared-registry."""
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://.*")


def read_env(environ: Mapping[str, str]) -> Draft:
    """Read the settings among these variables. Unknown ones with our prefix are named in a warning."""
    draft = Draft()
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or _NOT_OURS.fullmatch(variable):
            continue
        text = environ[variable].strip()
        setting = VARIABLES.get(variable)
        if setting is None:
            _warn(variable)
        elif text and not (setting == "port" and _KUBERNETES_PORT.fullmatch(text)):
            draft.put(setting, _value(setting, text), Origin(OriginKind.ENVIRONMENT, variable))
    return draft


def _value(setting: str, text: str) -> object:
    if setting == "replicas":
        return [ReplicaEndpoint(url.strip()) for url in text.split(",") if url.strip()]
    if setting == "max_staleness_seconds" and text.lower() == "none":
        return None
    return text


def _warn(variable: str) -> None:
    guess = nearest(variable.removeprefix(PREFIX).lower(), VARIABLES.values())
    hint = f"did you mean {PREFIX}{guess.upper()}?" if guess else "unset it"
    logger.warning("unknown variable %s is ignored; %s", variable, hint)
