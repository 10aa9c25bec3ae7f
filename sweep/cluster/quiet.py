"""Ray and Tune without their own words: the terminal, the signals and the record are ours."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

from sweep.cluster import ray_patches

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers keep the driver's folder: all paths are absolute.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The terminal is ours.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Signals are ours, too.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A resume reads the sweep's own record: Tune's snapshots would only cost time.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
}


def keep_quiet() -> None:
    """Set what Ray and Tune read when they are imported."""
    os.environ.update(ENVIRONMENT)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Print nothing of Ray's. What fails is told by us, in a line; its log files keep the rest."""
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ray_patches.no_messages():
        yield
