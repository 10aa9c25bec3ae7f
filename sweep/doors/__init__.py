"""A sweep from Python, and carried on into other tools."""
