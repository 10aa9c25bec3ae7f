"""The errors of a sweep as a whole."""

from trainable.common.errors import UserError


class SweepError(UserError):
    """The sweep cannot be started, found or gone on with."""
