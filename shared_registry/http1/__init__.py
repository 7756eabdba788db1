"""HTTP/1.1 towards replicas: one connection, which probes and the proxy share, and what it refuses of a response."""
