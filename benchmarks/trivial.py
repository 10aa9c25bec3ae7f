"""A trial that costs nothing: what remains is the driver's overhead."""

from typing import Any

from ray import tune


class TrivialTrial(tune.Trainable):
    """Reports a loss and is done."""

    results = 1
    """How many losses it reports."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the one searched value."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial."""
        self.lr = new_config.get("params", new_config)["optim.lr"]
        self.reported = 0
        return True

    def step(self) -> dict[str, Any]:
        """Report."""
        self.reported += 1
        loss, done = 2 + abs(self.lr - 0.01), self.reported == self.results
        return {
            **{"step": self.reported, "val_loss": loss, "done": done},
            **{"outcome": None, "notice": None},
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing."""


def trivial_trial(results: int) -> type[TrivialTrial]:
    """Return the class of trials that report so many losses."""
    return type("TrivialTrial", (TrivialTrial,), {"results": results})
