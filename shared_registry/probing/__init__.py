"""HTTP probes of replicas. A connection to each replica is kept open between probes."""

from shared_registry.model import Evidence
from shared_registry.probing.prober import HttpProbe, HttpProber, ProbeOutcome, guarded

__all__ = ["Evidence", "HttpProbe", "HttpProber", "ProbeOutcome", "guarded"]
