"""A router's metrics, in the text format of Prometheus: what they are called, where they come from, and their page."""
