"""Leader election and the work of the leader: the health loop and its schedule, ramps, the panic watch."""
