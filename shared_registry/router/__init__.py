"""The reference router: accepts sessions, WebSocket and HTTP, and proxies each to a replica of the registry."""
