"""The reference router: accepts sessions, WebSocket and HTTP, and proxies each to a replica of the registry."""

from shared_registry.extras import require_extra

require_extra("router", "httptools", "starlette", "uvicorn", "websockets")
