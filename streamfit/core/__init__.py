"""Learning itself: features, losses, optimizers, and the one gradient path.

Nothing here does I/O or reads a clock, a log or global random state.
"""
