"""A sweep in hand: `load_sweep("sweep-001")` gives tables, findings and models of it."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.analysis.facts import Facts
from sweep.analysis.finding import Finding
from sweep.analysis.rows import (
    EVALUATION_COLUMNS,
    evaluation_rows,
    size_rows,
    trial_columns,
    trial_rows,
)
from sweep.common.errors import SweepError
from sweep.config.sweep import SweepConfig
from sweep.record.folder import find_sweep
from sweep.record.results import SavedCheckpoint, SweepRecord, TrialRecord
from sweep.record.retention import existing
from sweep.record.storage import store_of
from trainable.common.errors import CheckpointError
from trainable.common.paths import in_project
from trainable.data.meta import TOKENIZER_FILE

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

    from trainable.model.transformer import Transformer


def load_sweep(name: str | Path) -> "Sweep":
    """Return a sweep as it is now, finished or not; load it again to see what came since.

    Args:
        name: of the sweep, or the path of its folder.

    Raises:
        SweepError: there is no such sweep, or a file of it is damaged.
    """
    folder = find_sweep(str(name))
    return Sweep(folder, Facts.read(folder))


class Sweep:
    """One sweep as it was when it was loaded.

    Args:
        folder: results/NAME.
        facts: what lies there.
    """

    def __init__(self, folder: Path, facts: Facts) -> None:
        self.folder = folder
        self.facts = facts

    @property
    def config(self) -> SweepConfig:
        """Its settings."""
        return self.facts.config

    @property
    def record(self) -> SweepRecord:
        """What happened in it."""
        return self.facts.record

    def __repr__(self) -> str:
        ended = f"{self.record.ended}/{self.record.num_samples} trials ended"
        best = f", best {self.best.best_val_loss:.4f} ({self.best.name})" if self.best else ""
        return f"<Sweep {self.name}: {ended}{best}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self.folder.name

    @property
    def complete(self) -> bool:
        """Whether all trials that were asked for have ended; else `run_sweep(resume=...)`."""
        return self.record.complete

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the lowest validation loss: its name, params, evaluations and outcome."""
        return self.record.best

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer.json of what it trained on, for `load_tokenizer`; raw data has none."""
        return in_project(self.config.trial.data.dataset) / TOKENIZER_FILE

    @cached_property
    def trials(self) -> "pandas.DataFrame":
        """One row a trial, by name. Columns: see trial_rows in sweep/analysis/rows.py.

        `started` and `ended` are times in UTC.
        """
        import pandas

        rows, columns = trial_rows(self.facts.study), trial_columns(self.config)
        table = pandas.DataFrame(rows, columns=columns).set_index("trial")
        for name in ("started", "ended"):
            table[name] = pandas.to_datetime(table[name].astype(float), unit="s", utc=True)
        return table

    @cached_property
    def evaluations(self) -> "pandas.DataFrame":
        """One row an evaluation. Columns: see evaluation_rows in sweep/analysis/rows.py."""
        import pandas

        columns = ["trial", *EVALUATION_COLUMNS]
        return pandas.DataFrame(evaluation_rows(self.record), columns=columns)

    @cached_property
    def sizes(self) -> "pandas.DataFrame":
        """One row a model size: the best rate with its band, the loss to expect. See size_rows."""
        import pandas

        return pandas.DataFrame(size_rows(self.config, self.facts.by_size))

    @cached_property
    def findings(self) -> list[Finding]:
        """What the sweep found, the most useful first; each has `text`, `numbers` and `rule`."""
        from sweep.analysis.findings import findings

        return findings(self.facts.study)

    def figure(self, name: str) -> "plotly.graph_objects.Figure":
        """Return a picture of the report, for a notebook or to save: "valleys", "curves", ...

        Raises:
            SweepError: there is no such picture.
        """
        from sweep.pictures.gallery import PICTURES

        if name not in PICTURES:
            raise SweepError(f"figure {name!r}: there are {', '.join(PICTURES)}")
        return PICTURES[name](self.facts).figure()

    def write_optuna_study(self, path: str | Path) -> None:
        """Write the sweep as an Optuna study to an SQLite file: see optuna_study.py.

        Raises:
            SweepError: the file cannot be written, or holds something else.
        """
        from sweep.doors.optuna_study import write_study

        write_study(self, Path(path))

    def restore(self, trial: str | None = None) -> "Transformer":
        """Return the model of the best trial, or of `trial`, at its lowest validation loss.

        The checkpoint is verified before anything is loaded; the model is in main memory, in fp32.

        Raises:
            SweepError: there is no such trial, or none that became better by training.
            CheckpointError: the checkpoint is damaged, or none was kept.
        """
        from sweep.evidence.restore import best_checkpoint  # torch takes seconds to import
        from trainable.checkpoint.export import load_checkpoint_model

        if trial is None:
            _, checkpoint = best_checkpoint(self.folder, self.record)
        else:
            checkpoint = self._checkpoint_of(trial)
        with store_of(self.folder).reading(checkpoint.path) as place:
            return load_checkpoint_model(place)

    def _checkpoint_of(self, name: str) -> SavedCheckpoint:
        if name not in self.record.trials:
            raise SweepError(f"sweep {self.name}: no trial {name!r}; there are {self._names()}")
        kept = existing(store_of(self.folder), self.record.trials[name])
        if not kept:
            raise CheckpointError(
                f"sweep {self.name}: {name} keeps no checkpoint: only the best "
                f"{self.config.keep_checkpoints} ended trials do (keep_checkpoints)"
            )
        return min(kept, key=lambda checkpoint: checkpoint.val_loss)

    def _names(self) -> str:
        names = sorted(self.record.trials, key=lambda name: self.record.trials[name].number)
        return f"{names[0]} .. {names[-1]}" if names else "none yet"
