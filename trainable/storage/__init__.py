"""Where checkpoints lie, whatever kind of place that is."""
