"""Ray's own part of joining a cluster: this process becomes a driver of it, and leaves."""

import contextlib
from collections.abc import Iterator
from typing import Any

from sweep.cluster import ray_patches
from sweep.cluster.address import Head
from sweep.cluster.quiet import keep_quiet, quiet
from sweep.common.errors import SweepError
from trainable.common.errors import first_line


@contextlib.contextmanager
def in_cluster(head: Head, address: str, runtime_env: dict[str, Any]) -> Iterator[None]:
    """Be a driver of a cluster meanwhile.

    Args:
        head: the cluster, as it answered.
        address: what the user calls it.
        runtime_env: what goes along to its nodes.

    Raises:
        SweepError: it cannot be joined.
    """
    keep_quiet()
    with quiet():
        import ray  # reads its settings when it is imported

        try:
            with ray_patches.own_signals():
                ray.init(
                    address=head.address,
                    runtime_env=runtime_env,
                    log_to_driver=False,
                    logging_level="CRITICAL",
                    _node_ip_address=head.here,
                )
        except Exception as error:  # Ray's kinds are private; whatever it was, nothing has begun
            raise SweepError(
                f"--ray-address {address}: Ray cannot join it: {first_line(error)}"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()
