"""What the elected router does: the election, the health loop and its schedule, ramps, the panic watch."""
