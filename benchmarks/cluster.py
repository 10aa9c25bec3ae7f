"""A Ray cluster: the driver's overhead beside bare Tune's, and what joining and faults take.

Its nodes lie in network namespaces of this machine (tests/cluster_nodes.py), one CPU each, so all
of them share its cores. That takes root; elsewhere the part says so and has no rows.
"""

import contextlib
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from benchmarks.measure import Bar, Row, middle, ratio

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 300.0
CHATTY = (6, 1_000)
"""Trials, and results of each: so many that their starts count for little."""


def rows(short: bool) -> Iterator[Row]:
    """Yield overheads on one node and on three, and the seconds of starts and joining."""
    sys.path.append(str(ROOT / "tests"))
    import pytest
    from cluster_nodes import cluster_nodes
    from live_sweeps import make_project

    try:
        with cluster_nodes(3, up=1) as nodes, tempfile.TemporaryDirectory(prefix="b") as scratch:
            site = Site(nodes, Path(scratch), make_project(Path(scratch)))
            yield from overheads(site, 1, short)
            yield start(site, 1 if short else 3)
            yield joining(site)
            yield from overheads(site, 3, short)
            yield from faults(site, 1 if short else 3)
    except pytest.skip.Exception as why:
        print(f"cluster: skipped: {why}", file=sys.stderr)


class Site:
    """The nodes, and a project whose sweeps run on them; drivers are on the head's node.

    Args:
        nodes: of the cluster.
        home: the project's folder.
        config: a small sweep's, in it.
    """

    def __init__(self, nodes: Any, home: Path, config: Path) -> None:
        self.nodes = nodes
        self.home = home
        self.config = config
        self.environment = nodes.environment | {
            **{"LM_SWEEP_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
            # Of the driver alone: the nodes get the code as they do from any sweep.
            "PYTHONPATH": str(ROOT),
        }

    @contextlib.contextmanager
    def sweep(self, name: str, *flags: str, alone: bool = False) -> Iterator[Path]:
        """Run a sweep meanwhile, over the cluster or on this machine alone; give its folder."""
        words = [sys.executable, str(ROOT / "sweep/run.py"), "--config", str(self.config)]
        words += ["--name", name, "--tracking.no-enabled", *flags]
        there = ["--ray-address", self.nodes.address]
        before = () if alone else self.nodes.within(0)
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*before, *words, *([] if alone else there)],
                env=self.environment,
                stdout=log,
                stderr=log,
            )
            try:
                yield self.home / "results" / name
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()

    @contextlib.contextmanager
    def driver(self, side: str) -> Iterator[Callable[[int, int], tuple[float, float]]]:
        """Run cluster_driver.py meanwhile; give what asks it for a run, for a result's seconds."""
        script = [sys.executable, str(ROOT / "benchmarks/cluster_driver.py")]
        with subprocess.Popen(
            [*self.nodes.within(0), *script, side, self.nodes.address],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as process:
            asks, tells = process.stdin, process.stdout
            assert asks is not None
            assert tells is not None
            _line(tells)

            def run(trials: int, results: int) -> tuple[float, float]:
                asks.write(f"{trials} {results}\n")
                clock, cpu = map(float, _line(tells).split())
                return clock, cpu

            yield run
            asks.close()


def overheads(site: Site, count: int, short: bool) -> Iterator[Row]:
    """Yield the driver's clock and CPU a result, beside bare Tune's, on so many nodes."""
    runs = {(100, 1): 3, CHATTY: 1} if short else {(100, 1): 5, (1_000, 1): 3, CHATTY: 3}
    runs |= {} if short else {(10_000, 1): 1}
    with site.driver("ours") as ours, site.driver("bare") as bare:
        for sides in (ours, bare):
            sides(20, 1)  # workers import what trials need
        for (trials, results), rounds in runs.items():
            took: dict[Any, list[tuple[float, float]]] = {ours: [], bare: []}
            for number in range(rounds):
                for side in (ours, bare) if number % 2 else (bare, ours):
                    took[side].append(side(trials, results))
            what = f"{trials:,} trials" + (f" of {results:,} results" if results > 1 else "")
            case = f"{what}, {count} node{'s' if count > 1 else ''}"
            yield from _overheads(case, results > 1, took[ours], took[bare])


def _overheads(
    case: str,
    chatty: bool,
    ours: list[tuple[float, float]],
    bare: list[tuple[float, float]],
) -> Iterator[Row]:
    """Yield a row for the CPU and one for the clock; with `chatty`, the results a second, too."""
    each = "result" if chatty else "trial"
    for number, clock in ((1, "driver's CPU"), (0, "by the clock")):
        mine, theirs = ([taken[number] for taken in side] for side in (ours, bare))
        of_each = [f"{1000 * min(side):.2g}" for side in (mine, theirs)]
        yield Row(
            "cluster",
            f"{case}, {clock}",
            *ratio(mine, theirs),
            unit="x bare Tune",
            bar=Bar(at_most=1.15),
            margin=0.5,
            note=f"at best {of_each[0]} against {of_each[1]} ms a {each}",
        )
    if chatty:
        speed = middle([1 / clock for clock, _ in ours])
        yield Row("cluster", case, *speed, unit="results/s", margin=None)


def start(site: Site, rounds: int) -> Row:
    """Return the seconds from typing a sweep's command to its first training step."""

    def seconds(name: str, alone: bool) -> float:
        began = time.time()
        with site.sweep(name, alone=alone) as folder:
            return _first(folder, lambda e: e["event"] == "evaluation") - began

    there, here = [], []
    for number in range(rounds):
        there.append(seconds(f"there{number}", alone=False))
        here.append(seconds(f"here{number}", alone=True))
    own = f"{middle(here)[0]:.1f} s with a Ray of its own"
    return Row(
        "cluster",
        "start of a sweep on a running cluster",
        *middle(there),
        unit="s",
        margin=None,
        note=f"to the first training step; {own}",
    )


def joining(site: Site) -> Row:
    """Let the other nodes join a running sweep; return the seconds to their first steps."""
    taken = []
    with site.sweep("grows", *_endless()) as folder:
        _first(folder, lambda e: e["event"] == "evaluation")
        for number in (1, 2):
            site.nodes.start(number)
            site.nodes.wait_for(number + 1, PATIENCE_SECONDS)
            joined = time.time()
            taken.append(_first_step_on(site.nodes.ip(number), folder) - joined)
    return Row(
        "cluster",
        "from a node's joining to its first step",
        *middle(taken),
        unit="s",
        bar=Bar(at_most=10),
        margin=None,
        note="from when the head names it; two nodes, one after the other",
    )


def faults(site: Site, rounds: int) -> Iterator[Row]:
    """Yield the seconds from a node's death, and from a cut link, to its trial's next report."""
    from cluster_sweeps import gone_on_after, step_of

    nodes = site.nodes
    flags = ("--max-concurrent", "2", "--max-failures", str(2 * rounds), *_endless())
    with site.sweep("moves", *flags) as folder:
        _until(lambda: all(step_of(folder, name) for name in ("t000", "t001")))
        for what, fault, bar in (("a node's death", nodes.kill, 10), ("a cut link", nodes.cut, 20)):
            taken = []
            for _ in range(rounds):
                seconds, number = gone_on_after(fault, nodes, folder)
                taken.append(seconds)
                nodes.heal(number)
                nodes.start(number)
                nodes.wait_for(3, PATIENCE_SECONDS)
            yield Row(
                "cluster",
                f"from {what} to training elsewhere",
                *middle(taken),
                unit="s",
                bar=Bar(at_most=bar),
                margin=None,
                note="to its trial's next report, one of which comes every half second",
            )


def _first_step_on(ip: str, folder: Path) -> float:
    """Wait until a trial that began on a node is evaluated at step 0; return when that was."""

    def here() -> set[str]:
        starts = [e for e in _events(folder) if e["event"] == "trial_started"]
        return {e["trial"] for e in starts if e["node"] == ip}

    _until(here)
    return _first(folder, lambda e: e["event"] == "evaluation" and e["trial"] in here())


def _endless() -> tuple[str, ...]:
    from live_sweeps import ENDLESS

    return tuple(ENDLESS)


def _events(folder: Path) -> list[dict[str, Any]]:
    from live_sweeps import events

    return list(events(folder))


def _first(folder: Path, kind: Callable[[dict[str, Any]], bool], since: int = 0) -> float:
    """Wait for the first such event after so many; return its Unix time, seconds."""
    found = _until(lambda: next(filter(kind, itertools.islice(_events(folder), since, None)), None))
    return float(found["time"])


def _until(there: Callable[[], Any]) -> Any:
    """Wait until something is there; return it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := there()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing happened in {PATIENCE_SECONDS:g} s")
        time.sleep(0.05)
    return found


def _line(stream: IO[str]) -> str:
    line = stream.readline()
    if not line:
        raise RuntimeError("a driver ended early: see above")
    return line
