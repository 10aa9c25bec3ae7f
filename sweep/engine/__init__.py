"""Ray Tune, driven: its callbacks become the sweep's events."""
