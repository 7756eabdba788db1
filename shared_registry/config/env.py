"""Reads settings from environment variables: `SHARED_REGISTRY_<SETTING>`, such as `SHARED_REGISTRY_REDIS_URL`.

`SHARED_REGISTRY_REPLICAS` holds urls separated by commas, or a JSON list like the one in a YAML file.
`SHARED_REGISTRY_HEALTH_CHECK_EXPECT` and `SHARED_REGISTRY_HEALTH_CHECK_HEADERS` hold a JSON object. The value `none`
unsets `SHARED_REGISTRY_MAX_STALENESS_SECONDS`. An empty variable counts as absent, because compose files pass an unset
variable on as an empty one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import fields

from shared_registry.config.address import ENV_PREFIX as PREFIX
from shared_registry.config.draft import ENDPOINT_KINDS, Draft, Origin, OriginKind, read_endpoints
from shared_registry.config.json_text import read_json
from shared_registry.config.problems import Problem, nearest
from shared_registry.config.settings import RouterConfig
from shared_registry.errors import ConfigError
from shared_registry.model import ReplicaEndpoint

logger = logging.getLogger(__name__)

VARIABLES = {f"{PREFIX}{item.name.upper()}": item.name for item in fields(RouterConfig)}
"""Every variable that is read, and the name of its setting."""
UNSET_BY_NONE = frozenset({"max_staleness_seconds", "panic_percent"})
"""Settings whose variable may be `none`, which means that the setting is not set."""

_NOT_OURS = re.compile(rf"{PREFIX}(TEST_.*|SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?)")
"""Settings of tests, and the variables that Kubernetes sets in the pods if a service is named shared-registry."""
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://.*")


def read_env(environ: Mapping[str, str]) -> Draft:
    """Read the settings among these variables. An unknown variable with our prefix causes a warning."""
    draft = Draft()
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or _NOT_OURS.fullmatch(variable):
            continue
        text = environ[variable].strip()
        setting = VARIABLES.get(variable)
        if setting is None:
            _warn(variable)
        elif text and not (setting == "port" and _KUBERNETES_PORT.fullmatch(text)):
            try:
                draft.put(setting, _value(setting, text), Origin(OriginKind.ENVIRONMENT, variable))
            except ConfigError as error:
                draft.problems.append(Problem(str(error), (setting,), variable))
    return draft


def _value(setting: str, text: str) -> object:
    if setting == "replicas":
        return _replicas(text)
    if setting in UNSET_BY_NONE and text.lower() == "none":
        return None
    return text


def _replicas(text: str) -> object:
    if not text.startswith("["):
        return [ReplicaEndpoint(url.strip()) for url in text.split(",") if url.strip()]
    try:
        items = read_json(text)
    except ConfigError as error:
        raise ConfigError(f"replicas: {error}") from None
    except (ValueError, RecursionError) as error:
        where = (
            f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        )
        raise ConfigError(f"replicas: begins with '[', but is not JSON: {where}; quote all texts with \"") from None
    return read_endpoints(items, _warn_of_key)


def _warn_of_key(place: str, key: str) -> None:
    guess = nearest(key, ENDPOINT_KINDS)
    hint = f"did you mean {guess}?" if guess else f"known keys: {', '.join(sorted(ENDPOINT_KINDS))}"
    logger.warning("%sREPLICAS: unknown key %r in %s is ignored; %s", PREFIX, key, place, hint)


def _warn(variable: str) -> None:
    guess = nearest(variable.removeprefix(PREFIX).lower(), VARIABLES.values())
    hint = f"did you mean {PREFIX}{guess.upper()}?" if guess else "unset it"
    logger.warning("unknown variable %s is ignored; %s", variable, hint)
