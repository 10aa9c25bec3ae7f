"""What a trial tells of itself at one step."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Evaluation:
    """What is known of a trial at one step."""

    step: int
    """Finished optimizer steps."""
    tokens: int
    """Tokens trained on so far."""
    flops: int
    """Floating-point operations of training so far (see model/counts.py)."""
    seconds: float
    """Wall-clock seconds spent in training steps so far, over all resumes; no evaluation."""
    train_loss: float | None
    """Mean training loss since the last evaluation, nats per token; None at step 0."""
    val_loss: float
    """Mean loss on the fixed validation windows, nats per token."""
    val_bpb: float | None
    """The same in bits per byte of text; None where the text is not known."""
    grad_norm: float | None
    """Global gradient norm of the last step, before clipping; None at step 0."""
    lr: float
    """Learning rate of the last step."""
    tokens_per_second: float | None
    """Training speed since the last evaluation; None at step 0."""

    def metrics(self) -> dict[str, float]:
        """Return the numbers that are known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}
