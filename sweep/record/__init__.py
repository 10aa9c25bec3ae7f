"""A sweep's folder and the one record in it, from which all else is read."""
