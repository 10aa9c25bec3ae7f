"""`--detach head`: a sweep's driver started on the cluster's head, so that this machine may go."""

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.cluster.address import Head, named_address, require_cluster
from sweep.cluster.admission import marked
from sweep.cluster.joining import in_cluster
from sweep.common.errors import SweepError
from sweep.conduct.detach import RELAY_EVERY_SECONDS, show_begun
from sweep.conduct.ordered import Order, order_of
from sweep.config.sweep import SweepConfig
from sweep.control.interruption import Interrupted, Interruption
from sweep.record.folder import results_folder
from sweep.record.identity import COMMIT_FILE, git_commit
from sweep.show.commands import shown_path
from trainable.common.errors import ConfigError, first_line
from trainable.common.paths import PACKAGE_PARENT, project_folder
from trainable.storage.s3 import WHERE

if TYPE_CHECKING:
    from sweep.conduct.head_driver import News

NICENESS = "RAY_worker_niceness"
"""Of Ray's workers; a driver must not be nicer than the trials beside it."""

SENT = ("MLFLOW_TRACKING_URI", "LM_SWEEP_MLFLOW_PAGE", *WHERE)
"""Variables that go along. Keys and passwords are in the head's own environment, as on any node."""

PATIENCE_SECONDS = 120.0
"""How long the head may take to start the process."""

INTERRUPTED_PATIENCE_SECONDS = 10.0
"""How long it may take to hear of a signal: nothing is lost if it is given up."""


def run_on_head(
    config: SweepConfig, resume: str | None, *, verify_data: bool, ray_address: str | None
) -> int:
    """Have the cluster's head run a sweep; return once its session has begun, or it has ended.

    Args: as for start_sweep; `resume` is the name of a sweep to go on with.

    A first Ctrl-C (SIGTERM, SIGHUP) ends the sweep that is about to begin, a second the waiting.

    Returns:
        0 once the session has begun; 128 + a signal that came before; else the exit status of the
        process on the head.

    Raises:
        ConfigError, SweepError: no cluster is named or answers, or its head cannot run the sweep.
    """
    address = named_address(ray_address)
    if address is None:
        raise ConfigError(
            "--detach head: a Ray of one's own has no head; name a cluster by --ray-address "
            "HOST:PORT or RAY_ADDRESS, or leave `head` out"
        )
    head = require_cluster(address)
    there = order_of(config, resume, verify_data=verify_data, ray_address=head.address)
    results = results_folder()
    shared = str(results if results.is_dir() else project_folder())
    with (
        Interruption() as interruption,
        _code() as code,
        _marked(shared) as mark,
        in_cluster(head, address, _sent(code)),
    ):
        try:
            interruption.require_none()
            start = _Start(head, there, shared, mark, interruption)
            return start.to_its_end(config.num_samples)
        except Interrupted:
            assert interruption.signal is not None
            print("interrupted", file=sys.stderr)
            return 128 + interruption.signal


class _Start:
    """A start on the head: what is printed there is printed here, and Ctrl-C is handed on.

    Args:
        head: of the cluster.
        order: what to run.
        shared: the project's folder.
        mark: name of a file in it.
        interruption: notes signals.
    """

    def __init__(
        self, head: Head, order: Order, shared: str, mark: str, interruption: Interruption
    ) -> None:
        from sweep.cluster.nodes import head_node  # Ray takes a while to import
        from sweep.cluster.tasks import on_node
        from sweep.conduct.head_driver import HeadDriver

        self._head = head
        self._interruption = interruption
        self._handed_on = False
        sent = {name: os.environ[name] for name in SENT if name in os.environ}
        actor = on_node(
            head_node(),
            HeadDriver,
            name=f"lm-sweep-{secrets.token_hex(4)}",
            namespace="lm-sweep",
            lifetime="detached",
            max_concurrency=2,  # an interruption does not wait for an answer
        )
        self._actor = actor.remote(order, sent, shared, mark)

    def to_its_end(self, num_samples: int) -> int:
        """Wait until the session has begun, or the process has ended; return the exit status.

        Raises:
            Interrupted: a signal came before the head had begun with it; it was called off.
            SweepError: the head does not answer.
        """
        shown = 0
        while True:
            news = self._news(shown)
            shown += len(news.printed)
            sys.stdout.write(news.printed.decode(errors="replace"))
            sys.stdout.flush()
            self._hand_on()
            signal = self._interruption.signal
            if news.status is not None:
                sys.stderr.write(news.errors.decode(errors="replace"))
                return news.status if signal is None else 128 + signal
            if news.log and signal is not None:
                print(f"interrupted: it had just begun; see {shown_path(news.log)}")
                return 128 + signal
            if news.log:
                process = f"process {news.pid} on the cluster's head, {self._head.host}"
                show_begun(Path(news.log), process, num_samples)
                return 0
            time.sleep(RELAY_EVERY_SECONDS)

    def _news(self, since: int) -> "News":
        import ray
        from ray.exceptions import RayError

        answer = self._actor.news.remote(since)
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            while not ray.wait([answer], timeout=RELAY_EVERY_SECONDS)[0]:
                self._hand_on()
                if time.monotonic() > deadline:
                    break
            news: News = ray.get(answer, timeout=0)
        except RayError as error:
            self._call_off()
            raise SweepError(
                f"--detach head: the head, {self._head.host}, did not start a driver: "
                f"{first_line(error)}; `status.py` lists the sweeps that run"
            ) from error
        return news

    def _hand_on(self) -> None:
        """Hand on a signal that has come, once.

        Raises:
            Interrupted: the head does not take it.
        """
        import ray

        if self._handed_on or self._interruption.signal is None:
            return
        self._handed_on = True
        taken = self._actor.interrupt.remote()
        if not ray.wait([taken], timeout=INTERRUPTED_PATIENCE_SECONDS)[0]:
            self._call_off()
            raise Interrupted

    def _call_off(self) -> None:
        """End the actor: else it might start a driver later, and nobody would know."""
        import ray
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):  # the head itself is gone
            ray.kill(self._actor)


@contextlib.contextmanager
def _marked(shared: str) -> Iterator[str]:
    """Leave a file in the project's folder for a while.

    Raises:
        SweepError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            mark = stack.enter_context(marked(shared))
        except OSError as error:
            raise SweepError(
                f"--detach head: {shared}: {error.strerror}; set LM_SWEEP_HOME to a folder that "
                "you can write and that the head sees"
            ) from error
        yield mark


@contextlib.contextmanager
def _code() -> Iterator[str]:
    """Give a folder with our code as it is when it is installed, and the commit it is of."""
    with tempfile.TemporaryDirectory(prefix="lm-code-") as folder:
        for name in ("trainable", "sweep"):
            without = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PACKAGE_PARENT / name, Path(folder) / name, ignore=without)
        configs = PACKAGE_PARENT / "configs"
        if configs.is_dir():  # in a checkout; a wheel has them there
            shutil.copytree(configs, Path(folder) / "sweep" / "configs")
        commit = git_commit()
        if commit:
            (Path(folder) / COMMIT_FILE).write_text(commit)
        yield folder


def _sent(code: str) -> dict[str, Any]:
    """Return what goes along to the head: our code, and where the project is."""
    return {
        "working_dir": code,
        "env_vars": {"LM_SWEEP_HOME": str(project_folder()), NICENESS: "0"},
    }
