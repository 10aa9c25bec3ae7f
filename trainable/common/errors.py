"""The errors a user can meet: each message names setting, value, rule and remedy."""


class UserError(ValueError):
    """A mistake that the user can mend: commands print it without a traceback and exit with 2."""


class ConfigError(UserError):
    """A setting is unknown, has the wrong type or breaks a rule."""


class DataError(UserError):
    """A text file or token file cannot be used."""


class CheckpointError(UserError):
    """A checkpoint is damaged, incomplete or of another model."""


class StorageError(UserError):
    """The place for checkpoints cannot be reached or used."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not whole: an older one may be."""


class DivergedError(ArithmeticError):
    """The loss stopped being finite: the trial is over, and its rate was too high for its size."""

    def __init__(self, step: int, lr: float, loss: float) -> None:
        super().__init__(f"diverged: loss {loss} at step {step} with learning rate {lr:.4g}")
        self.step = step
        self.lr = lr
        self.loss = loss

    def __reduce__(self) -> tuple[type["DivergedError"], tuple[int, float, float]]:
        return DivergedError, (self.step, self.lr, self.loss)


def first_line(error: BaseException) -> str:
    """Return an error's first line, or its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
