"""How a running sweep is told to end."""
