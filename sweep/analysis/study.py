"""What a sweep's record says, each part computed once: the fit, the sizes, the noise."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sweep.analysis.sizes import SizeRow, best_by_size, size_fields
from sweep.analysis.words import size_text
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord, TrialRecord
from trainable.model.counts import flops_per_token, parameter_count

if TYPE_CHECKING:
    from sweep.analysis.surface import Surface


@dataclass(frozen=True)
class Size:
    """A model size that was tried."""

    values: tuple[Any, ...]
    """Its searched fields, in the order of the space; () where no size is searched."""
    label: str
    """As people say it: "128x4"."""
    parameters: int | None
    """Trainable parameters; None where no evaluation tells the vocabulary."""
    trials: tuple[TrialRecord, ...]


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

        What differs by chance between trials of one training seed, by the fit, and what the choice
        of the validation windows contributes, by the plan. What another seed would change for all
        trials of a size no sweep of one seed can tell. None without a fit.
        """
        if self.surface is None:
            return None
        plan = self.record.plan
        windows = (plan and plan.standard_error) or 0.0
        return float((2 * self.surface.training_noise**2 + windows**2) ** 0.5)

    @cached_property
    def tried(self) -> list[Size]:
        """The sizes that were tried, the smallest first."""
        groups: dict[tuple[Any, ...], list[TrialRecord]] = {}
        for trial in self.record.trials.values():
            groups.setdefault(self.size_of(trial), []).append(trial)
        found = [
            Size(values, self.label_of(values), self.parameters(trials[0].params), tuple(trials))
            for values, trials in groups.items()
        ]
        return sorted(found, key=lambda size: (size.parameters or 0, str(size.values)))

    @cached_property
    def vocab_size(self) -> int | None:
        """Number of token ids, as the FLOPs of an evaluation tell it; None where none does."""
        for trial in self.record.trials.values():
            for told in trial.evaluations:
                if told.get("flops") and told.get("tokens"):
                    model = self.config.trial_config(trial.params).model
                    head = told["flops"] / told["tokens"] - flops_per_token(model, 0)
                    found = round(head / (6 * model.d_model))
                    return found if found > 0 else None
        return self.config.trial.data.raw_vocab_size

    def size_of(self, trial: TrialRecord) -> tuple[Any, ...]:
        """Return the searched fields that make a trial's size, in the order of the space."""
        return tuple(trial.params.get(name) for name in self._size_fields)

    def label_of(self, size: tuple[Any, ...]) -> str:
        """Return a size as people say it: "128x4"."""
        return size_text(self._size_fields, size) or "the model"

    def parameters(self, params: dict[str, Any]) -> int | None:
        """Return the trainable parameters of a model; None where the vocabulary is not known.

        Args:
            params: searched fields by dotted name; those left out are as in the base trial.
        """
        if self.vocab_size is None:
            return None
        return parameter_count(self.config.trial_config(params).model, self.vocab_size)

    @cached_property
    def _size_fields(self) -> list[str]:
        return size_fields(self.config)[0]
