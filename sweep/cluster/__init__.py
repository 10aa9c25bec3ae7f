"""Where trials run: resources, and a Ray of our own."""
