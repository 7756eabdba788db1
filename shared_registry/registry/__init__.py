"""What an application holds: the facade, its wiring, membership in the cluster, outcomes of sessions."""
