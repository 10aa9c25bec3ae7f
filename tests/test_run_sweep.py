"""A sweep run from Python: settings, refusals, and real ones that leave the caller's process be."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from live_sweeps import ROOT, descendants, evaluated, gone, make_project, processes, wait_for
from sweep_samples import SPACE, TRIAL, new_sweep, sweep_config

from sweep import load_sweep, run_sweep
from sweep.common.errors import SweepError
from sweep.doors.running import _resolved
from trainable.common.errors import ConfigError, DataError

FIELDS = {"num_samples": 4, "space": SPACE, "trial": TRIAL}


def test_a_config_is_a_file_a_mapping_or_made(tmp_path: Path) -> None:
    assert _resolved(None, {}).num_samples == 32
    assert _resolved("smoke.yaml", {}).num_samples == 4
    own = tmp_path / "own.yaml"
    own.write_text("num_samples: 5\nspace: {optim.lr: {loguniform: [1e-4, 1e-2]}}\n")
    assert _resolved(own, {}).num_samples == 5
    assert _resolved(FIELDS, {}).space.keys() == SPACE.keys()
    made = sweep_config(seed=7)
    assert _resolved(made, {}) == made


def test_settings_replace_those_of_the_config() -> None:
    before = sweep_config(start_points=[{"optim.lr": 1e-3, "model.d_model": 64}])
    config = _resolved(
        before,
        {
            "num_samples": 3,
            "trial": {"train": {"steps": 40}, "model.n_layers": 1},
            "trial.optim.lr": 2e-3,
            "asha.enabled": False,
        },
    )
    assert config.num_samples == 3
    assert config.trial.train == before.trial.train.model_copy(update={"steps": 40})
    assert config.trial.model.n_layers == 1
    assert not config.asha.enabled
    assert config.asha.grace_period == before.asha.grace_period
    assert config.trial.optim.lr == 2e-3
    assert list(config.space) == ["model.d_model"]  # a fixed field is not searched
    assert config.start_points == [{"model.d_model": 64}]
    space = {"optim.lr": {"uniform": [1e-3, 2e-3]}}
    assert _resolved(FIELDS, {"space": space}).space.keys() == space.keys()
    assert FIELDS == {"num_samples": 4, "space": SPACE, "trial": TRIAL}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_sample": 3}, r"run_sweep: num_sample = 3: no such setting; did you mean"),
        ({"num_samples": 0}, r"num_samples = 0: .*greater than or equal to 1"),
        ({"trial.optim.lrr": 1}, r"trial\.optim\.lrr = 1: no such setting; did you mean 'lr'"),
        ({"num_samples.x": 1}, r"num_samples\.x: num_samples is one setting"),
        ({"config": "none.yaml"}, r"config file none\.yaml: no such file"),
        ({"config": None, "resume": "none"}, r"sweep 'none': not in"),
        ({"resume": "none"}, r"config: a resumed sweep has its config"),
    ],
)
def test_a_mistake_is_an_exception_before_anything_starts(settings, told, capfd) -> None:
    with pytest.raises((ConfigError, SweepError), match=told):
        run_sweep(**{"config": FIELDS, **settings})
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_what_the_sweep_refuses_is_an_exception_of_its_kind(capfd) -> None:
    """It is the sweep's own process that finds these."""
    with pytest.raises(DataError, match="data/none"):
        run_sweep(FIELDS)
    config = make_project(Path(os.environ["LM_SWEEP_HOME"]))
    new_sweep("taken")
    with pytest.raises(SweepError, match="--name taken: a sweep of this name exists"):
        run_sweep(config, name="taken")
    assert capfd.readouterr() == ("", "")


QUICK = {
    "trial.train": {"precision": "fp32", "attention": "products", "compile": "never"},
    "tracking.enabled": False,
    "num_samples": 2,
}
ENDLESS = {
    **QUICK,
    "trial.train.steps": 1_000_000,
    "trial.train.eval_every": 500,
    "asha.enabled": False,
    "max_concurrent": 1,
}


@pytest.fixture
def config(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return make_project(project)


def surroundings() -> tuple:
    """Return what a sweep would change in its own process."""
    umask = os.umask(0o022)
    os.umask(umask)
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    return umask, wakeup, handlers, dict(os.environ), threading.active_count()


@pytest.mark.slow
def test_sweeps_run_one_after_another_and_from_a_thread(config: Path, capsys) -> None:
    before = surroundings()
    first = run_sweep(config, **QUICK)
    assert surroundings() == before
    assert (first.name, first.complete, len(first.trials)) == ("sweep-001", True, 2)
    assert set(first.trials["outcome"]) <= {"finished", "stopped"}
    assert "best: t00" in capsys.readouterr().out
    with ThreadPoolExecutor(1) as thread:
        extended = thread.submit(run_sweep, resume="sweep-001", num_samples=3, quiet=True).result()
    assert capsys.readouterr() == ("", "")
    assert (len(extended.trials), extended.record.sessions, extended.complete) == (3, 2, True)
    assert extended.trials["val_loss"][:2].equals(first.trials["val_loss"])
    assert descendants(os.getpid()) == []


@pytest.mark.slow
@pytest.mark.fault
def test_an_interrupt_is_raised_once_the_trials_are_saved(
    config: Path, project: Path, capsys
) -> None:
    before = surroundings()
    folder = project / "results" / "mine"

    def interrupt() -> None:
        wait_for(lambda: evaluated(folder, 1000))
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(config, name="mine", **ENDLESS)
    assert surroundings() == before
    assert "run.py --resume mine" in capsys.readouterr().out
    sweep = load_sweep("mine")
    assert list(sweep.trials["outcome"]) == ["interrupted"]
    assert sweep.record.session_started is None
    assert sweep.restore("t000").config.d_model == 32


@pytest.mark.slow
@pytest.mark.fault
def test_a_sweep_whose_process_is_killed_is_an_error_that_says_how_to_go_on(
    config: Path, project: Path
) -> None:
    def kill() -> None:
        wait_for(lambda: evaluated(project / "results" / "sweep-001", 1000))
        (driver,) = processes(os.getpid(), rb".*\0-c\0.*sweep\.doors\.child")
        os.kill(driver, signal.SIGKILL)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(kill)
        with pytest.raises(SweepError, match=r"signal 9.*run_sweep\(resume='sweep-001'\)"):
            run_sweep(config, quiet=True, **ENDLESS)


@pytest.mark.slow
@pytest.mark.fault
def test_a_sweep_ends_gracefully_when_the_process_that_wants_it_is_killed(
    config: Path, project: Path
) -> None:
    """As the kernel of a notebook is, when it is started again."""
    code = f"from sweep import run_sweep; run_sweep({str(config)!r}, name='left', **{ENDLESS!r})"
    folder = project / "results" / "left"
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    wait_for(lambda: evaluated(folder, 1000))
    below = descendants(caller.pid)
    caller.kill()
    caller.wait()
    wait_for(lambda: gone(below))
    sweep = load_sweep("left")
    assert list(sweep.trials["outcome"]) == ["interrupted"]
    assert sweep.record.session_started is None
