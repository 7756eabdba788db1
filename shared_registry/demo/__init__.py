"""`shared-registry demo`: a cluster of local processes, and what befalls it."""
