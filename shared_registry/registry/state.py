"""The base class of a registry's methods: it declares the parts that they use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from shared_registry.admin.inspector import Inspector
from shared_registry.aio.clock import Clock
from shared_registry.config import RouterConfig
from shared_registry.errors import UnknownReplica
from shared_registry.happenings import Emitter, Listener
from shared_registry.mirror.mirror import Mirror
from shared_registry.registry.outcomes import Outcomes
from shared_registry.registry.wiring import Parts
from shared_registry.selection.view import View


class RegistryState(ABC):
    """The parts of one router's registry, of its present start or of the next one."""

    config: RouterConfig
    _clock: Clock
    _emitter: Emitter
    _parts: Parts
    _reader: Inspector
    _view: View
    _mirror: Mirror
    _outcomes: Outcomes

    @abstractmethod
    def subscribe(self, listener: Listener, *, with_sessions: bool = True) -> Callable[[], None]:
        """Call a listener with everything that happens from now on; return the function that ends that."""

    @property
    @abstractmethod
    def is_started(self) -> bool:
        """Whether the registry follows the shared state."""

    @abstractmethod
    def _expect_started(self) -> None:
        """Refuse a call that needs a started registry.

        Raises:
            UsageError: The registry is not started in this process.
        """


def unknown_replica(key: str) -> UnknownReplica:
    """Return the error for a url that no registered replica has."""
    return UnknownReplica(f"no replica {key} is registered")
