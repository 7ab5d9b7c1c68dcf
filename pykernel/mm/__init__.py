"""User memory: one interface over simulated pages, this process and other processes."""
