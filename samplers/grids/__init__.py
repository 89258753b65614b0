"""Grids: the times at which a sampler with fixed steps visits a process."""
