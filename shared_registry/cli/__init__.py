"""The command `shared-registry`."""
