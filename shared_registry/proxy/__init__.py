"""The proxy: a router that accepts WebSocket and HTTP sessions, and passes each on to a replica of the registry."""

from shared_registry.extras import require_extra

require_extra("router", "httptools")
