"""`shared-registry demo`: starts a cluster of local processes, and shows how it handles failures."""

from shared_registry.extras import require_extra

require_extra("demo", "httpx", "rich", "starlette", "uvicorn", "websockets")
