"""The limits of a client's connection and its requests."""

from __future__ import annotations

from dataclasses import dataclass

from shared_registry.config import RouterConfig


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask of the router.

    Attributes:
        header_seconds: How long a head may take to arrive.
        silence_seconds: How long a client may send nothing of a body.
        total_seconds: How long an exchange may take in all; 0 has no limit.
        body_bytes: The most bytes of a request's body.
    """

    header_seconds: float
    silence_seconds: float
    total_seconds: float = 0.0
    body_bytes: int = 2**53

    @classmethod
    def of(cls, config: RouterConfig) -> Limits:
        """Return the limits that a router's settings give."""
        return cls(
            header_seconds=config.header_timeout_seconds,
            silence_seconds=config.response_timeout_seconds,
            total_seconds=config.total_timeout_seconds,
            body_bytes=config.max_body_bytes,
        )
