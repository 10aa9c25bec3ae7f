"""One session of a sweep, from its lock to its last line."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from sweep.analysis.study import Study
from sweep.cluster.place import Place
from sweep.cluster.surroundings import require_surroundings
from sweep.common.errors import SweepError
from sweep.conduct.detach import Begun
from sweep.config.sweep import SweepConfig
from sweep.control.interruption import Interrupted, Interruption
from sweep.control.orders import OrderWatch
from sweep.engine.closing import close_session
from sweep.plan.budget import TimeBudget
from sweep.plan.plan import Plan
from sweep.plan.probe import Forecast
from sweep.record.events import EventLog, read_events
from sweep.record.folder import SweepFile, write_sweep
from sweep.record.lock import locked
from sweep.record.machine import machine_text
from sweep.record.planned import PlannedCost
from sweep.record.results import EndedBy, SweepRecord
from sweep.record.retention import collect
from sweep.record.storage import store_of
from sweep.show.commands import next_commands, shown_path
from sweep.show.console import open_console, say
from sweep.show.plan_text import show_plan
from sweep.show.progress import Progress
from sweep.show.summary import interrupted_text, ray_died_text, show_summary, tell_result
from sweep.tracking.runs import MlflowRuns
from sweep.tracking.system import require_psutil
from sweep.tracking.tracker import Tracker
from sweep.tracking.view import page_addresses
from trainable.common.errors import StorageError, first_line
from trainable.common.output import Output
from trainable.data.batches import TokenDataset, open_dataset
from trainable.data.build import ensure_default


def run_session(
    folder: Path,
    sweep: SweepFile,
    place: Place,
    dataset: TokenDataset,
    plan: Plan,
    output: Output,
    begun: Begun | None = None,
) -> int:
    """Run a session of the sweep; the first one shows the plan and keeps it on record.

    `begun` is called once it has begun.

    Returns:
        The exit status: 0, 1 if no trial has a usable loss, or 128 + the signal that ended it.
    """
    require_surroundings(place.workers_here)
    require_psutil(sweep.config.tracking)
    os.umask(0o077)  # records, checkpoints, MLflow's store and Ray's token are private
    with locked(folder):
        session = Session(folder, sweep, dataset, place, output)
        session.run(plan, begun)
    return session.tell_the_end()


class Session:
    """One session: Ray and MLflow start while the plan is made, then the trials run.

    Args:
        folder: the sweep's, whose lock must be held.
        sweep: its settings and identity.
        dataset: what its trials train on.
        place: where they run.
        output: where to print.
    """

    def __init__(
        self,
        folder: Path,
        sweep: SweepFile,
        dataset: TokenDataset,
        place: Place,
        output: Output,
    ) -> None:
        self._folder = folder
        self._sweep = sweep
        self._dataset = dataset
        self._place = place
        self._output = output
        self._console = open_console(output)
        place.tell = functools.partial(say, self._console)
        self._interruption = Interruption()
        self._runs: MlflowRuns | None = None
        self._tracker: Tracker | None = None
        self._budget: TimeBudget | None = None
        self._delivered = True
        self._report: Path | None = None
        write_sweep(folder, sweep)
        self._store = store_of(folder)
        self._record = SweepRecord.read(folder)
        self._log = EventLog(folder)
        self._log.listen(self._record.apply)

    def run(self, plan: Plan, begun: Begun | None = None) -> None:
        """Run to the last trial's end, or until a signal comes."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            if self._record.sessions:
                self._collect()  # what workers left that were killed, or lived on on their own
            stack.callback(self._collect)
            stack.enter_context(self._interruption)
            number = self._record.sessions + 1
            stack.enter_context(OrderWatch(self._folder, number, self._interruption.ask))
            try:
                with self._place.starting(self._without_ray) as ray_ready:
                    self._run(plan, ray_ready, begun)
            except (Interrupted, SweepError):
                if self._interruption.signal is None:
                    raise  # else that is why: a signal to all processes ends a Ray that starts
        if not self._delivered:
            say(
                self._console,
                "MLflow did not get everything; when it is back: "
                f"python sweep/status.py {self._folder.name} --sync",
            )

    def tell_the_end(self) -> int:
        """Print how the session ended, and its result; return the exit status."""
        config, signal = self._sweep.config, self._interruption.signal
        study = Study(config, self._record)
        if signal is not None:
            say(self._console, self._interrupted_text(config.num_samples))
        elif self._output.is_for_people:
            experiment = self._runs.experiment_id if self._runs else None
            pages = page_addresses(experiment, self._folder.name) if experiment else None
            show_summary(self._folder, study, pages, self._console)
        self._tell_report()
        tell_result(self._folder, self._sweep, study, self._output)
        if signal is not None:
            return 128 + signal
        return 0 if self._record.best else 1

    def _run(self, plan: Plan, ray_ready: Callable[[], None], begun: Begun | None) -> None:
        """Settle what is at auto, show the plan, and run the trials once all has started."""
        config = self._place.settled(self._sweep.config, self._dataset)
        self._sweep = self._sweep.model_copy(update={"config": config})
        write_sweep(self._folder, self._sweep)
        if config.tracking.enabled:
            self._runs = MlflowRuns(self._folder, self._sweep)
            self._tracker = Tracker(self._runs)
            self._log.listen(self._tracker.notice)
            self._tracker.start()
        expected, is_first = Forecast(None), not self._record.sessions
        if is_first:
            older = self._record.older
            expected = show_plan(config, self._dataset, plan, older, self._place, self._console)
        cost = plan.cost(expected.seconds)
        from sweep.engine.session import run_trials  # Tune and Optuna take a while to import

        self._interruption.require_none()
        ray_ready()
        if self._tracker and not self._tracker.wait_connected():
            why = self._trouble() or "no answer yet"
            say(self._console, f"MLflow is away, training goes on: {why}")
        self._interruption.require_none()
        with self._on_record(cost if is_first else None):
            if begun is not None:
                begun(self._folder, self._record.sessions)
            if config.time_budget is not None:
                self._budget = self._begun_budget(expected)
            progress = Progress(config, self._record, cost, self._console, self._trouble)
            self._log.listen(progress.notice)
            with progress:
                # On record, so that it is told wherever the sweep is followed.
                self._place.tell = lambda line: self._log.append("notice", text=line)
                run_trials(
                    config,
                    self._folder,
                    self._store,
                    self._record,
                    self._log,
                    self._place,
                    self._interruption,
                    self._budget,
                )

    def _begun_budget(self, expected: Forecast) -> TimeBudget:
        """Return the time budget, which counts from now; it knows the pace of earlier sessions."""
        budget = TimeBudget(self._sweep.config, self._dataset.vocab_size, expected.paces)
        for event in read_events(self._folder):
            budget.notice(event)
        self._log.listen(budget.notice)
        budget.begin(self._record)
        return budget

    @contextlib.contextmanager
    def _on_record(self, cost: PlannedCost | None) -> Iterator[None]:
        """Record that the session began, what it is planned to cost, and how it ended."""
        config = self._sweep.config
        self._log.append(
            "session_started",
            session=self._record.sessions + 1,
            num_samples=config.num_samples,
            plan=asdict(cost) if cost else None,
            machine=machine_text(),
        )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a full disk has its own error
                self._close_session()

    def _close_session(self) -> None:
        ended_by: EndedBy | None = self._interruption.wanted
        if self._budget and self._budget.is_used_up and self._interruption.signal is None:
            ended_by = "time_budget"
        config = self._sweep.config
        close_session(self._folder, config, self._record, self._log, ended_by=ended_by)

    def _interrupted_text(self, num_samples: int) -> str:
        name, wanted = self._folder.name, self._interruption.wanted
        return interrupted_text(name, self._record, num_samples, wanted)

    def _trouble(self) -> str | None:
        return self._tracker.trouble if self._tracker else None

    def _collect(self) -> None:
        """Remove checkpoints that nobody needs, while no worker of the sweep runs."""
        try:
            collect(self._store, self._record, self._sweep.config.keep_checkpoints)
        except StorageError as error:
            say(self._console, f"{error}; what nobody needs is removed by the next session")

    def _close(self) -> None:
        """Close the record, and let MLflow have the rest of it."""
        self._log.close()
        self._write_report()
        if self._tracker:
            self._delivered = self._tracker.close()

    def _write_report(self) -> None:
        """Write the report of what is on record; the sweep's outcome never hangs on it."""
        if not self._record.sessions:
            return  # refused before it began: the folder will be removed
        try:
            from sweep.show.report import write_report  # pictures are not needed before

            self._report = write_report(self._folder)
        except Exception as error:  # whatever it is, all trials are on record
            say(
                self._console,
                f"report: not written ({first_line(error)}); to try again: "
                f"{next_commands(self._folder.name, self._record.num_samples)['report']}",
            )

    def _tell_report(self) -> None:
        if self._report is not None:
            say(self._console, f"  report: {shown_path(self._report)}")

    def _without_ray(self) -> int:
        """Record and tell the end of a session whose main thread may hang in a call of Ray.

        A signal to all of the sweep's processes (systemd, a batch system) ends Ray, too.
        """
        self._log.seal()
        with contextlib.suppress(OSError):  # a full disk: it is as if the driver had been killed
            self._close_session()
            self._log.close()
        self._write_report()
        if self._tracker:
            self._tracker.close()
        if self._interruption.signal is not None:
            say(self._console, self._interrupted_text(self._record.num_samples))
            self._tell_report()
            return 128 + self._interruption.signal
        with contextlib.suppress(OSError):  # nobody there to be told
            text = ray_died_text(self._folder.name, self._place.lost_text)
            print(text, file=sys.stderr, flush=True)
        return 2


def open_data(config: SweepConfig, console: Console, *, verify: bool) -> TokenDataset:
    """Open the dataset of a sweep; make the embedded corpus first, if that is missing.

    With `verify` every byte of its token files is read, even if they were checked before.
    """
    made = ensure_default(config.trial.data)
    if made:
        say(console, f"prepared {config.trial.data.dataset}: the {made.source}")
    return open_dataset(config.trial.data, config.trial.model.context_length, verify=verify)
