"""A sweep's settings: files, flags, names, rungs, resources; what is wrong is said in one line."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import RunPython
from sweep_samples import SPACE, TRIAL, new_sweep, refusal, sweep_config

from sweep.cluster import placement
from sweep.cluster.packing import Machine
from sweep.cluster.placement import Room, local_machine, needed, require_fits
from sweep.common.errors import SweepError
from sweep.config.sweep import SweepConfig
from sweep.record.folder import find_sweep
from sweep.record.results import SweepRecord
from sweep.run import main
from sweep.search.ask_tell import build_method
from trainable.common.errors import ConfigError
from trainable.common.paths import PACKAGE_PARENT, config_file
from trainable.config.explain import validate
from trainable.config.yaml_file import read_yaml

SHIPPED = sorted((PACKAGE_PARENT / "configs").glob("*.yaml"))


def load(folder: Path, text: str) -> SweepConfig:
    """Return the sweep that a YAML text describes."""
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return validate(SweepConfig, read_yaml(path), str(path))


def load_refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert str(folder / "sweep.yaml") in message
    return message


@pytest.mark.parametrize(
    "path", [p for p in SHIPPED if p.name != "trial.yaml"], ids=lambda p: p.name
)
def test_shipped_sweeps_are_valid(path: Path) -> None:
    config = validate(SweepConfig, read_yaml(path), path.name)
    assert config.asha.enabled, "the shipped sweeps stop trials early"
    assert config_file(path.name) == path


def test_shipped_sweeps_are_all_looked_at() -> None:
    assert {p.name for p in SHIPPED} >= {"sweep.yaml", "smoke.yaml", "tinystories.yaml"}


def test_a_sweep_survives_json() -> None:
    space: dict[str, Any] = {
        **SPACE,
        "model.n_layers": {"int": [1, 3]},
        "optim.beta2": {"uniform": [0.9, 0.99]},
        "optim.schedule": {"choice": ["cosine", "wsd"]},
    }
    config = sweep_config(space=space, start_points=[{"optim.lr": 1e-3}], name="a.b-c_1")
    text = config.model_dump_json(by_alias=True)
    assert validate(SweepConfig, json.loads(text), "json") == config


RATES = {"optim.lr": {"loguniform": [1e-4, 1e-2]}, "model.d_model": {"choice": [32, 64]}}


@pytest.mark.parametrize(
    ("other", "asked", "found"),
    [
        ({}, "auto", "gp"),
        ({"optim.weight_decay": {"choice": [0.1]}}, "auto", "gp"),
        ({"optim.weight_decay": {"choice": [0.1, 0.2]}}, "auto", "tpe"),
        ({"optim.weight_decay": {"choice": [0.1, 0.2]}}, "gp", "gp"),
        ({}, "tpe", "tpe"),
        ({}, "random", "random"),
    ],
)
def test_gp_searches_rates_and_sizes_and_tpe_where_there_are_other_fields(
    other: dict[str, Any], asked: str, found: str
) -> None:
    config = sweep_config(space={**RATES, **other}, search={"algorithm": asked})
    assert config.algorithm == found
    assert config.stops_by == ("model" if found == "gp" else "rungs")
    method = type(build_method(config, SweepRecord())).__name__
    assert method == ("GpMethod" if found == "gp" else "OptunaMethod")


@pytest.mark.parametrize(
    ("changes", "name", "near"),
    [
        ({"num_sample": 3}, "num_sample", "num_samples"),
        ({"asha": {"grace": 10}}, "asha.grace", "grace_period"),
        ({"trial": {"optim": {"learnrate": 1}}}, "trial.optim.learnrate", None),
        ({"trial": {"modle": {}}}, "trial.modle", "model"),
    ],
)
def test_an_unknown_key_names_the_nearest(
    changes: dict[str, Any], name: str, near: str | None
) -> None:
    text = refusal(**changes)
    assert f"{name} = " in text
    assert f"did you mean {near!r}?" in text if near else "known here: lr," in text


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"num_samples": "3"}, "num_samples = '3'"),
        ({"num_samples": 3.0}, "num_samples = 3.0"),
        ({"num_samples": True}, "num_samples = True"),
        ({"asha": {"enabled": "no"}}, "asha.enabled = 'no'"),
        ({"asha": [1]}, "asha = [1]"),
        ({"search": {"algorithm": "grid"}}, "search.algorithm = 'grid'"),
        ({"trial": {"optim": {"lr": "3e-4"}}}, "trial.optim.lr = '3e-4'"),
        ({"trial": {"optim": {"lr": math.nan}}}, "trial.optim.lr = nan"),
        ({"space": ["optim.lr"]}, "space = ['optim.lr']"),
        ({"seed": -1}, "seed = -1"),
        ({"tracking": {"experiment": ""}}, "tracking.experiment = ''"),
    ],
)
def test_a_wrong_type_or_value_names_the_setting(changes: dict[str, Any], name: str) -> None:
    assert name in refusal(**changes)


def test_yaml_reads_what_people_write_as_numbers(tmp_path: Path) -> None:
    text = "space:\n  optim.lr: {loguniform: [1e-4, 3E-2]}\ntrial:\n  optim: {eps: 1.5e-9}\n"
    config = load(tmp_path, text)
    assert config.space["optim.lr"].values == [1e-4, 3e-2]
    assert config.trial.optim.eps == 1.5e-9


def test_yaml_refuses_a_quoted_number(tmp_path: Path) -> None:
    text = load_refusal(tmp_path, "space:\n  optim.lr: {loguniform: ['1e-4', 3e-2]}\n")
    assert "space.optim.lr.loguniform.0 = '1e-4'" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_samples: 4\nnum_samples: 8\n", "num_samples"),
        ("trial:\n  optim:\n    lr: 1\n    lr: 2\n", "lr"),
        ("asha: &a {enabled: true}\nsearch: *a\n", "alias"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n", "alias"),
        ("<<: {num_samples: 2}\nseed: 1\n---\nseed: 2\n", "YAML"),
        ("- num_samples\n", "list"),
        ("just text\n", "str"),
        ("num_samples: [1\n", "YAML"),
        ("num_samples: !!python/object/apply:os.getcwd []\n", "YAML"),
        ("? [a, b]\n: 1\n", "key"),
        ("on: 1\n", "key"),
        ("[" * 5_000, "YAML"),
    ],
)
def test_yaml_that_cannot_be_trusted_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in load_refusal(tmp_path, text)


def test_a_file_that_is_no_config_is_refused(tmp_path: Path) -> None:
    assert "bytes is more than" in load_refusal(tmp_path, "# " + "x" * 1_000_001)
    (tmp_path / "sweep.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "sweep.yaml", tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            read_yaml(path)


@pytest.mark.parametrize("name", ["a", "A.b-c_1", "0", "x" * 64, "sweep-001", "a.."])
def test_names_that_are_allowed(name: str) -> None:
    assert sweep_config(name=name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../x",
        "/x",
        "a/b",
        "a\\b",
        ".",
        "..",
        ".hidden",
        "-x",
        "a\n",
        "a b",
        "x" * 300,
        "é",
        "a\0",
    ],
)
def test_names_that_could_leave_the_results_folder_are_refused(name: str) -> None:
    text = refusal(name=name)
    assert "name" in text
    assert "letters, digits" in text
    assert len(text.splitlines()) == 1
    with pytest.raises(SweepError, match="letters, digits"):  # of --resume NAME, too
        find_sweep(name)


@pytest.mark.parametrize(
    ("place", "given"),
    [
        (".", "mine/"),
        (".", "results/mine"),
        ("elsewhere", "results/mine/"),
        ("results", "./mine//"),
        ("results/mine", "../mine"),
        (".", "{results}/mine"),
    ],
)
def test_a_sweep_is_found_by_its_path(
    place: str, given: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = new_sweep("mine")
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / place)  # where the user stands
    assert find_sweep(given.format(results=folder.parent)) == folder
    with pytest.raises(SweepError, match="letters, digits"):
        find_sweep("elsewhere/mine")
    with pytest.raises(SweepError, match=r"there are: mine$"):
        find_sweep("yours")


@pytest.mark.parametrize("number", [0, -1])
def test_a_sweep_has_trials(number: int) -> None:
    assert f"num_samples = {number}" in refusal(num_samples=number)


def test_rungs_lie_on_evaluations_within_the_budget() -> None:
    uneven = refusal(asha={"grace_period": 15})
    assert "asha.grace_period 15" in uneven
    assert "interval 10" in uneven
    beyond = refusal(asha={"grace_period": 90})
    assert "asha.grace_period 90 is beyond trial.train.steps 80" in beyond
    # Without early stopping the grace period says nothing, so it may be anything.
    assert sweep_config(asha={"enabled": False, "grace_period": 15}).rungs == []


@pytest.mark.parametrize(
    ("steps", "every", "grace", "factor", "rungs"),
    [
        (80, 10, 10, 2, [10, 20, 40]),
        (80, 10, 10, 3, [10, 30]),
        (80, 10, 20, 4, [20]),
        (80, 10, 80, 2, []),
        (81, 1, 1, 3, [1, 3, 9, 27]),
        (80, 10, None, 2, [10, 20, 40]),
        (80, None, None, 8, [10]),
    ],
)
def test_rungs_are_the_grace_period_times_powers_of_the_factor(
    steps: int, every: int | None, grace: int | None, factor: int, rungs: list[int]
) -> None:
    trial = {**TRIAL, "train": {"steps": steps, "eval_every": every}}
    asha = {"grace_period": grace, "reduction_factor": factor}
    assert sweep_config(trial=trial, asha=asha).rungs == rungs


@pytest.mark.parametrize("factor", [1, 0, 2.5])
def test_a_reduction_factor_reduces(factor: float) -> None:
    assert "asha.reduction_factor" in refusal(asha={"reduction_factor": factor})


@pytest.mark.parametrize("field", ["cpus_per_trial", "gpus_per_trial"])
def test_more_than_one_core_or_gpu_is_a_whole_number(field: str) -> None:
    assert f"{field} 1.5: above 1 it must be whole; take 2" in refusal(**{field: 1.5})
    for fine in (0.25, 0.5, 1, 1.0, 2, 2.0):
        assert getattr(sweep_config(**{field: fine}), field) == fine
    assert f"{field} = -1" in refusal(**{field: -1})


def test_the_table_of_sizes_is_a_goal_where_a_search_can_have_it() -> None:
    assert sweep_config().search.goal == "both"
    table = {"goal": "table"}
    assert not sweep_config(search=table).has_answer
    one = {"optim.lr": {"loguniform": [1e-4, 1e-2]}}
    assert "take --search.goal best" in refusal(search=table, space=one)
    sizes = {"model.d_model": {"choice": [32, 64]}}
    assert "take --search.goal best" in refusal(search=table, space=sizes)


def test_a_trial_gets_the_threads_of_its_cores_and_its_suggestion() -> None:
    params = {"optim.lr": 2e-3, "model.d_model": 64}
    trial = sweep_config(cpus_per_trial=2).trial_config(params)
    assert (trial.train.threads, trial.optim.lr, trial.model.d_model) == (2, 2e-3, 64)
    assert sweep_config(cpus_per_trial=0.5).trial_config(params).train.threads == 1


@pytest.mark.parametrize(
    ("settings", "machine", "trials"),
    [
        ({}, Machine(4, 0), 4),
        ({"cpus_per_trial": 2}, Machine(5, 0), 2),
        ({"cpus_per_trial": 5}, Machine(5, 0), 1),
        ({"cpus_per_trial": 0.5}, Machine(2, 0), 4),
        ({"cpus_per_trial": 0.1}, Machine(1, 0), 8),  # ten would fit, there are eight
        ({"max_concurrent": 2}, Machine(4, 0), 2),
        ({"max_concurrent": 9}, Machine(4, 0), 4),
        ({"num_samples": 3}, Machine(64, 0), 3),
        ({"gpus_per_trial": 1}, Machine(16, 3), 3),
        ({"gpus_per_trial": 2}, Machine(16, 5), 2),
        ({"gpus_per_trial": 3}, Machine(16, 4), 1),
        ({"gpus_per_trial": 0.25}, Machine(16, 1), 4),
        ({"gpus_per_trial": 0.4}, Machine(16, 3), 6),  # two to a GPU: a trial cannot span two
        ({"gpus_per_trial": 0.1, "num_samples": 40}, Machine(64, 3), 30),
        ({"gpus_per_trial": 0.25, "cpus_per_trial": 4}, Machine(8, 1), 2),
        ({"gpus_per_trial": 49, "num_samples": 9}, Machine(16, 98), 2),
    ],
)
def test_as_many_trials_at_once_as_fit(
    settings: dict[str, Any], machine: Machine, trials: int
) -> None:
    require_fits(sweep_config(**settings), machine)
    assert Room(sweep_config(**settings)).most([machine]) == trials


@pytest.mark.parametrize(
    ("settings", "machine", "said"),
    [
        ({"cpus_per_trial": 3}, Machine(2, 0), "cpus_per_trial 3: there are 2 CPUs"),
        ({"gpus_per_trial": 1}, Machine(2, 0), "gpus_per_trial 1: there are 0 GPUs"),
        ({"gpus_per_trial": 0.5}, Machine(2, 0), "gpus_per_trial 0.5: there are 0 GPUs"),
        ({"gpus_per_trial": 4}, Machine(8, 2), "gpus_per_trial 4: there are 2 GPUs"),
    ],
)
def test_more_than_the_machine_has_is_refused_as_ray_would_wait_for_ever(
    settings: dict[str, Any], machine: Machine, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        require_fits(sweep_config(**settings), machine)


def test_this_machine_has_a_core() -> None:
    machine = local_machine(sweep_config())
    assert machine.cpus >= 1
    assert machine.gpus == 0, "GPUs are not counted for a sweep that asks for none"


@pytest.mark.parametrize(
    ("limit", "cpus"),
    [
        ("max 100000", 6),
        ("400000 100000", 4),
        ("250000 100000", 2),  # whole cores
        ("50000 100000", 1),
        ("6400000 100000", 6),  # a limit is no core
        ("", 6),
    ],
)
def test_a_container_has_the_cores_that_both_its_limits_grant(
    limit: str, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cgroup's, and that of the scheduler, which lets it run on six cores here."""
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    monkeypatch.setattr(placement, "_CGROUP_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert local_machine(sweep_config()).cpus == cpus


@pytest.fixture
def plan(tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that gives what `--dry-run` with further flags prints."""
    path = tmp_path / "small.yaml"
    trial = {**TRIAL, "data": {"dataset": str(tiny_dataset)}}
    values = {
        "num_samples": 4,
        "space": {**SPACE, "model.tie_embeddings": {"choice": [True, False]}},
        "start_points": [{"optim.lr": 1e-3, "model.d_model": 64, "model.tie_embeddings": True}],
        "trial": trial,
    }
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML

    def show(*flags: str) -> str:
        assert main(["--config", str(path), "--dry-run", *flags]) == 0
        return capsys.readouterr().out

    return show


def test_the_plan_shows_what_is_searched(plan: Any, project: Path) -> None:
    text = plan()
    assert "optim.lr: 0.0001 .. 0.01 (loguniform)" in text
    assert "model.d_model: 32, 64 (choice)" in text
    assert not (project / "results").exists(), "a dry run leaves nothing behind"


@pytest.mark.parametrize("flag", [["--trial.optim.lr", "3e-4"], ["--trial.optim.lr=3e-4"]])
def test_a_flag_on_a_searched_field_takes_it_out_of_the_search(plan: Any, flag: list[str]) -> None:
    text = plan(*flag)
    assert "optim.lr" not in text
    assert "model.d_model: 32, 64" in text


@pytest.mark.parametrize(
    "flag",
    [
        ["--trial.model.d-model", "64"],
        ["--trial.model.d_model", "64"],
        ["--trial.model.d-model=64"],
    ],
)
def test_a_flag_on_a_searched_size_leaves_that_size(plan: Any, flag: list[str]) -> None:
    text = plan(*flag)
    assert "model.d_model:" not in text
    assert "optim.lr: 0.0001 .. 0.01" in text


@pytest.mark.parametrize(
    "flag", ["--trial.model.tie-embeddings", "--trial.model.no-tie-embeddings"]
)
def test_a_flag_on_a_searched_switch_takes_it_out_of_the_search(plan: Any, flag: str) -> None:
    assert "model.tie_embeddings:" not in plan(flag)


def test_flags_overrule_the_file(plan: Any) -> None:
    assert plan().startswith("trials    4,")
    assert plan("--num-samples", "7").startswith("trials    7,")
    assert "rungs     none" in plan("--asha.no-enabled")


def test_fixing_all_that_is_searched_is_refused(plan: Any) -> None:
    flags = ["--trial.optim.lr=1e-3", "--trial.model.d-model=64", "--trial.model.tie-embeddings"]
    with pytest.raises(ConfigError, match="space"):
        plan(*flags)


def test_an_option_needs_its_value_once() -> None:
    for words in (["--resume"], ["--config"], ["--config", "a", "--config=b"]):
        with pytest.raises(ConfigError, match=words[0]):
            main(words)


def test_help_and_a_misspelt_flag(run_python: RunPython) -> None:
    script = PACKAGE_PARENT / "sweep" / "run.py"
    told = run_python(script, "--help")
    assert told.returncode == 0
    for word in (
        "--num-samples",
        "--resume NAME",
        "--config FILE",
        "--dry-run",
        "--trial.optim.lr",
    ):
        assert word in told.stdout
    assert told.stderr == ""
    wrong = run_python(script, "--num-sample", "3")
    assert wrong.returncode == 2
    assert "--num-samples" in wrong.stdout + wrong.stderr
    assert "Traceback" not in wrong.stdout + wrong.stderr


def test_a_refused_setting_is_one_line_and_exit_2(run_python: RunPython, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("num_sample: 3\nspace: {optim.lr: {uniform: [1e-4, 1e-3]}}\n", encoding="utf-8")
    told = run_python(PACKAGE_PARENT / "sweep" / "run.py", "--config", path)
    assert told.returncode == 2
    assert told.stdout == ""
    assert told.stderr.count("\n") == 1
    assert "did you mean 'num_samples'?" in told.stderr
    gone = run_python(PACKAGE_PARENT / "sweep" / "run.py", "--resume", "nowhere")
    assert gone.returncode == 2
    assert gone.stderr.startswith("error: sweep 'nowhere'")
    assert gone.stderr.count("\n") == 1


def test_ray_is_given_what_the_trials_take() -> None:
    """It would start an idle process for each further CPU."""
    machine = Machine(64, 2)
    assert needed(sweep_config(), machine, 4) == Machine(4, 2)
    assert needed(sweep_config(cpus_per_trial=0.5), machine, 3) == Machine(2, 2)
    assert needed(sweep_config(cpus_per_trial=16), machine, 4) == machine
