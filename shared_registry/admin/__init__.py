"""Operating a cluster from outside, without joining it: observe, operate, check, repair."""
