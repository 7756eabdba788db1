"""Observes, operates, checks and repairs a cluster from outside, without joining its routers."""
