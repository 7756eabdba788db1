"""The proxy: a router that accepts WebSocket and HTTP sessions, and passes each on to a replica of the registry."""
