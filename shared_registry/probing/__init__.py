"""One HTTP probe of one replica, over the connection that is kept to it."""

from shared_registry.probing.prober import HttpProbe, HttpProber, ProbeOutcome, guarded

__all__ = ["HttpProbe", "HttpProber", "ProbeOutcome", "guarded"]
