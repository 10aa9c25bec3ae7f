"""What a worker on a cluster's node begins with."""

import os


def begin() -> None:
    """Keep what is written private, as the driver does."""
    os.umask(0o077)
