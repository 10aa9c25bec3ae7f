"""What the machine was doing meanwhile, on the sweep's own run, where that was asked for."""

import contextlib
import importlib.util
from collections.abc import Iterator

from sweep.common.errors import SweepError
from sweep.config.sweep import TrackingConfig
from sweep.tracking.store import tracking_uri


def require_psutil(tracking: TrackingConfig) -> None:
    """Refuse to record the machine's metrics without what reads them.

    Raises:
        SweepError: psutil is not installed.
    """
    asked = tracking.enabled and tracking.system_metrics
    if asked and importlib.util.find_spec("psutil") is None:
        raise SweepError(
            "--tracking.system-metrics: MLflow reads them with psutil, which is not installed; "
            "`pip install psutil` brings it, or leave the flag out"
        )


@contextlib.contextmanager
def machine_watched(run_id: str) -> Iterator[None]:
    """Record CPU, memory, disk, network and GPUs every 10 s on a run that is running.

    MLflow does it in a thread of its own, which ends by itself where the store is away.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=tracking_uri())
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
