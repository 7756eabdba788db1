"""Replicas that announce themselves: what runs beside a replica. It needs only the package's core dependencies."""
