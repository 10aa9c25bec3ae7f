"""What a sweep's record says, each part computed once: the fit, the sizes, the noise."""

from functools import cached_property
from typing import TYPE_CHECKING

from sweep.analysis.sizes import SizeRow, best_by_size
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord

if TYPE_CHECKING:
    from sweep.analysis.surface import Surface


class Study:
    """A record as it was when it was read; what is shown of it together is asked of one study.

    Args:
        config: the sweep's settings.
        record: what happened in it.
    """

    def __init__(self, config: SweepConfig, record: SweepRecord) -> None:
        self.config = config
        self.record = record

    @cached_property
    def surface(self) -> "Surface | None":
        """The fit to all learning curves; None if nothing was trained whose loss counts."""
        from sweep.analysis.surface import fit_surface  # scipy takes a while to import

        return fit_surface(self.config, self.record)

    @cached_property
    def sizes(self) -> list[SizeRow]:
        """A row for each model size that was tried; none if size or rate is not searched."""
        return best_by_size(self.config, self.record, self.surface)

    @property
    def by_loss(self) -> list[tuple[float, SizeRow]]:
        """The sizes whose final loss is known or predicted, with it, from the lowest."""
        rows = [(row.loss, row) for row in self.sizes if row.loss is not None]
        return sorted(rows, key=lambda pair: pair[0])

    @cached_property
    def noise(self) -> float | None:
        """Standard deviation of the difference of two trials' final losses, nats.

        What training with another seed would change of both, by the fit, and what the choice of the
        validation windows contributes, by the plan. None without a fit.
        """
        if self.surface is None:
            return None
        plan = self.record.plan
        windows = (plan and plan.standard_error) or 0.0
        return float((2 * self.surface.training_noise**2 + windows**2) ** 0.5)
