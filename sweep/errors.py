"""The errors of a sweep as a whole."""

from trainable.errors import UserError


class SweepError(UserError):
    """The sweep cannot be started, found or gone on with."""
