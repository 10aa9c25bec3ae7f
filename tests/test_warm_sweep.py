"""A real sweep that starts from an older one, and goes on without it."""

import json
import shutil

import pytest
from live_sweeps import ALONE, FIXED, events, make_project, run, wait_for
from sweep_samples import new_sweep

from sweep import run as run_command
from sweep.record.results import SweepRecord
from trainable.common.errors import ConfigError

LONGER = ("--trial.train.steps", "300", "--trial.train.eval-every", "30", *FIXED, *ALONE)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["gp", "tpe"])
def test_a_killed_warm_sweep_suggests_the_same_without_the_older_one(tmp_path, start, algorithm):
    config = ("--config", str(make_project(tmp_path)), "--search.algorithm", algorithm, *LONGER)
    old = run(tmp_path, "sweep/run.py", *config, "--name", "old", "--seed", "9", "--quiet")
    assert old.returncode == 0, old.stderr
    warm = (*config, "--warm-start", "old", "--num-samples", "5")
    planned = run(tmp_path, "sweep/run.py", *warm, "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    document = json.loads(planned.stdout)
    assert document["warm_start"] == {"old": 6}
    assert document["config"]["search"]["warm_start"] == ["old"]
    assert document["config"]["start_points"] == [], "the older sweep has tried it"
    whole = run(tmp_path, "sweep/run.py", *warm, "--name", "whole")
    assert whole.returncode == 0, whole.stderr
    assert f"search    {algorithm}, warm start: 6 trials of old\n" in whole.stdout
    assert "fitted to all learning curves and to 6 trials of old\n" in whole.stdout
    assert "6 trials of old" in (tmp_path / "results/whole/report.html").read_text()

    folder = tmp_path / "results/killed"
    killed = start(tmp_path, *warm, "--name", "killed")
    wait_for(lambda: [e["event"] for e in events(folder)].count("trial_started") >= 3)
    killed.kill()
    killed.communicate()
    shutil.rmtree(tmp_path / "results/old")
    done = run(tmp_path, "sweep/run.py", "--resume", "killed", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["warm_start"], document["counts"].keys() <= {"finished", "stopped"}) == (
        {"old": 6},
        True,
    )
    undisturbed, resumed = (
        SweepRecord.read(tmp_path / "results" / name) for name in ("whole", "killed")
    )
    assert len(resumed.older) == 6
    assert list(resumed.trials) == [f"t{n:03d}" for n in range(5)]
    for name, trial in undisturbed.trials.items():
        other = resumed.trials[name]
        assert (other.params, other.outcome, other.step) == (
            trial.params,
            trial.outcome,
            trial.step,
        )
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (parent,) = client.search_runs(
        ["1"], "tags.`sweep.name` = 'killed' and params.warm_start = 'old'"
    )
    assert parent.data.params["num_samples"] == "5"


def test_what_cannot_be_started_from_is_refused_before_anything_begins(project):
    new_sweep("old")
    with pytest.raises(ConfigError, match="--warm-start: a resumed sweep knows what it began with"):
        run_command.main(["--resume", "old", "--warm-start", "other"])
    with pytest.raises(ConfigError, match="random search learns from no trial; take tpe or gp"):
        run_command.main(["--warm-start", "old", "--search.algorithm", "random"])
    with pytest.raises(ConfigError, match="a sweep stands twice"):
        run_command.main(["--warm-start", "old,old"])
    assert [path.name for path in (project / "results").iterdir()] == ["old"]
