"""This router's live copy of the shared state: followed, written through, restored, and the loads beside it."""
