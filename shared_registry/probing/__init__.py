"""HTTP probes of replicas. A connection to each replica is kept open between probes."""

from shared_registry.model import Evidence
from shared_registry.probing.guard import guarded
from shared_registry.probing.outcome import HttpProbe, ProbeOutcome
from shared_registry.probing.prober import HttpProber

__all__ = ["Evidence", "HttpProbe", "HttpProber", "ProbeOutcome", "guarded"]
