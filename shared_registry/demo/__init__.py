"""`shared-registry demo`: a cluster of local processes, and what happens to it."""

from shared_registry.extras import require_extra

require_extra("demo", "httpx", "rich", "starlette", "uvicorn", "websockets")
