"""Runs a real Redis or Valkey server as a child process, which never outlives the process that started it."""

from shared_registry.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
