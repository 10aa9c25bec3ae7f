"""The driver's overhead per trial, beside bare Tune's, with trials that cost nothing.

Both sides reuse workers. The bare side is Tune alone: random suggestions, no early stopping, no
callbacks; for the sweep's own search it is Tune with Ray's OptunaSearch. Ours keeps its record.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import MIB, Bar, Row, forget_peak, interleave, ratio, resident

if TYPE_CHECKING:
    from sweep.cluster.place import Place
    from sweep.config.sweep import SweepConfig

CONCURRENT = 2
SPACE = [1e-5, 1.0]


def rows(short: bool) -> Iterator[Row]:
    """Yield the ratio of the overheads for growing numbers of trials."""
    from sweep.cluster.local_ray import ray_starting
    from sweep.cluster.packing import Machine

    here = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    counts = {100: 3} if short else {250: 3, 1_000: 3, 10_000: 1}
    os.umask(0o077)
    with ray_starting(Machine(CONCURRENT, 0), CONCURRENT, lambda: 1) as wait_for_ray:
        wait_for_ray()
        for algorithm in ("random", "tpe"):
            for trials, rounds in counts.items():
                if trials > 1_000 and algorithm == "tpe":
                    continue  # both sides would spend the time in Optuna
                yield _row(algorithm, trials, rounds)


def _row(algorithm: str, trials: int, rounds: int) -> Row:
    grown: list[float] = []
    taken = interleave(
        {
            "ours": lambda: grown.append(ours(algorithm, trials)),
            "bare": lambda: bare(algorithm, trials),
        },
        rounds,
        warm_up=int(rounds > 1),
    )
    each = {side: 1000 * min(seconds) / trials for side, seconds in taken.items()}
    return Row(
        "driver",
        f"{trials:,} trials, {algorithm}",
        *ratio(taken["ours"], taken["bare"]),
        unit="x bare Tune",
        bar=Bar(at_most=1.15),
        margin=0.5,
        note=f"at best {each['ours']:.0f} against {each['bare']:.0f} ms a trial; "
        f"the driver grew by {max(grown):,.0f} MiB",
    )


def ours(algorithm: str, trials: int) -> float:
    """Run a session of a sweep whose trials do nothing; return by how many MiB it grew at most."""
    from sweep.cluster.place import ThisMachine

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(CONCURRENT)
    config = idle_sweep(trials, algorithm=algorithm, max_concurrent=CONCURRENT)
    forget_peak()
    before = resident("VmRSS")
    run_idle(config, ThisMachine(config))
    return (resident("VmHWM") - before) / MIB


def idle_sweep(
    trials: int,
    results: int = 1,
    *,
    algorithm: str = "random",
    max_concurrent: int | None = None,
    data: dict[str, Any] | None = None,
) -> "SweepConfig":
    """Return the settings of a sweep whose trials do nothing but report so many results each."""
    from sweep.config.sweep import SweepConfig
    from trainable.config.explain import validate

    values: dict[str, Any] = {
        "num_samples": trials,
        "max_concurrent": max_concurrent,
        "space": {"optim.lr": {"loguniform": SPACE}},
        "search": {"algorithm": algorithm},
        "asha": {"enabled": False},
        "trial": {
            "data": data or {"raw_dtype": "uint16", "raw_vocab_size": 257},
            "train": {"steps": results, "eval_every": 1},
        },
    }
    return validate(SweepConfig, values, "benchmark")


def run_idle(
    config: "SweepConfig", place: "Place", reported: Callable[[], None] = lambda: None
) -> None:
    """Run a session of such a sweep, and call `reported` at each result.

    Ray must have been started.
    """
    from benchmarks.trivial import trivial_trial
    from sweep.control.interruption import Interruption
    from sweep.engine import session
    from sweep.record.events import EventLog
    from sweep.record.results import SweepRecord
    from trainable.storage.folder import FolderStore

    # Another class with the same methods, in its place.
    trial = trivial_trial(config.trial.train.steps)
    session.LanguageModelTrial = trial  # type: ignore[attr-defined]  # as imported there
    with tempfile.TemporaryDirectory() as folder:
        record, log = SweepRecord(), EventLog(Path(folder))
        log.listen(record.apply)
        log.listen(lambda event: reported() if event["event"] == "evaluation" else None)
        log.append("session_started", session=1, num_samples=config.num_samples)
        store = FolderStore(Path(folder))
        session.run_trials(config, Path(folder), store, record, log, place, Interruption())
        log.close()
    assert record.counts() == {"finished": config.num_samples}


def bare(
    algorithm: str, trials: int, results: int = 1, reported: Callable[[], None] | None = None
) -> None:
    """Run as many with Tune alone, and call `reported` at each result."""
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from benchmarks.trivial import trivial_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    os.environ.pop("TUNE_MAX_PENDING_TRIALS_PG", None)

    class Listener(tune.Callback):
        def on_trial_result(self, **_: Any) -> None:
            assert reported is not None
            reported()

    search = OptunaSearch(metric="val_loss", mode="min") if algorithm == "tpe" else None
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(trivial_trial(results), {"cpu": 1}),
            param_space={"optim.lr": tune.loguniform(*SPACE)},
            tune_config=tune.TuneConfig(
                num_samples=trials,
                search_alg=search,
                reuse_actors=True,
                metric="val_loss",
                mode="min",
            ),
            run_config=tune.RunConfig(
                storage_path=folder, callbacks=[Listener()] if reported else [], verbose=0
            ),
        )
        assert len(tuner.fit()) == trials
