"""A real Redis or Valkey server of one's own, which never outlives the process that started it."""

from shared_registry.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
