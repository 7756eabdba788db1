"""This router's mirror of the shared state: it follows the event stream and is restored after a loss of history.

The package also reads the loads of replicas and advances this router's part of slow start.
"""
