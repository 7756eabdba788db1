"""Leader election, the work of the leader, and the health loop, which other routers run for their shares."""
