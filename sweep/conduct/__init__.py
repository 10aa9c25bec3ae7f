"""A sweep from its config to its last line."""
