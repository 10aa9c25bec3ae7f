"""A trial that costs nothing: what remains is the driver's overhead."""

from typing import Any

from ray import tune


class TrivialTrial(tune.Trainable):
    """Reports one loss and is done."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the one searched value."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial."""
        self.lr = new_config.get("params", new_config)["optim.lr"]
        return True

    def step(self) -> dict[str, Any]:
        """Report."""
        loss = 2 + abs(self.lr - 0.01)
        return {"step": 1, "val_loss": loss, "outcome": None, "notice": None, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing."""
