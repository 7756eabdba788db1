"""The command `shared-registry`."""

from shared_registry.extras import require_extra

require_extra("cli", "rich", "typer")
