"""Sizes compared at equal FLOPs: each trial's own steps, and that all goes by the share of them."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig
from live_sweeps import FIXED, make_project, run
from sweep_samples import (
    TRIAL,
    ended,
    evaluated,
    new_sweep,
    record_of,
    refusal,
    run_of,
    session,
    started,
    sweep_config,
    write_events,
)

from sweep.analysis.facts import Facts
from sweep.analysis.findings import findings
from sweep.analysis.leaderboard import leaderboard
from sweep.analysis.study import Study
from sweep.conduct.warm_start import warm_started
from sweep.config.equal_flops import step_flops
from sweep.config.search import AshaConfig
from sweep.config.sweep import SweepConfig
from sweep.pictures.curves import curves
from sweep.pictures.strip import rungs
from sweep.plan.budget import TimeBudget
from sweep.plan.plan import make_plan
from sweep.plan.probe import Speed, expected_seconds
from sweep.plan.sizes import mean_flops, trial_flops, with_budget
from sweep.record.events import Event
from sweep.record.folder import read_sweep
from sweep.record.results import SweepRecord
from sweep.search.ask_tell import build_method, stopped_on_record
from sweep.show.commands import own_settings, replay_flags
from sweep.show.comparison import write_comparison
from sweep.show.plan_text import plan_lines
from sweep.status import main as status
from trainable.common.errors import ConfigError
from trainable.common.paths import config_file
from trainable.config.explain import validate
from trainable.config.flags import parse_flags
from trainable.config.trial import TrialConfig
from trainable.config.yaml_file import read_yaml
from trainable.data.batches import open_dataset
from trainable.training.optim import learning_rate

VOCAB = 257
WIDTHS = [32, 64, 128]
SPACE = {"optim.lr": {"loguniform": [1e-4, 1e-2]}, "model.d_model": {"choice": WIDTHS}}
BEST = 1e-3


def config_of(algorithm: str = "tpe", **changes: Any) -> SweepConfig:
    search = {"algorithm": algorithm, "compare": "flops", **changes.pop("search", {})}
    return with_budget(sweep_config(**{"space": SPACE, **changes, "search": search}), VOCAB)


def loss_at(params: dict[str, Any], share: float) -> float:
    """A valley along the rate; the middle size is best at this budget."""
    off = math.log(params["optim.lr"] / BEST)
    size = abs(math.log2(params["model.d_model"] / 64))
    return 2.0 + 0.1 * off**2 + 0.2 * size - 0.4 * math.log(share)


class Sweep:
    """A sweep played with its method, one trial after another, each at steps of its own."""

    def __init__(self, config: SweepConfig, events: list[Event] | None = None) -> None:
        self.config, self.events = config, list(events or [session()])
        self.method = build_method(config, record_of(self.events))

    def run(self, number: int, worse: float = 0.0) -> int:
        """Run a trial to its end; return its evaluations."""
        params, name = self.method.ask(number, {}), f"t{number:03d}"
        answer = {"answer": True} if number in self.method.answers else {}
        self.events.append(started(name, params=params, **answer))
        train = self.config.trial_config(params).train
        each = step_flops(self.config.trial_config(params), VOCAB)
        for step in range(train.eval_interval, train.steps + 1, train.eval_interval):
            loss = loss_at(params, step / train.steps) + worse
            told = {"tokens": step * 64, "flops": step * each}
            self.events.append(evaluated(name, step, loss, **told))
            if not self.method.report(number, step, loss):
                break
        self.method.tell(number, loss)
        outcome = "finished" if step == train.steps else "stopped"
        self.events.append(ended(name, outcome, step))
        return step // train.eval_interval


def test_each_size_gets_the_steps_that_the_budget_pays_for() -> None:
    config = config_of()
    by_steps = sweep_config(space=SPACE)
    assert config.search.flops == mean_flops(by_steps, VOCAB), "it costs as much as by steps"
    trials = [config.trial_config({"model.d_model": width}) for width in WIDTHS]
    steps = [trial.train.steps for trial in trials]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > 80 > steps[-1]
    for trial in trials:
        off = trial_flops(trial, VOCAB) / config.search.flops - 1
        assert abs(off) <= 0.5 / trial.train.eval_interval, "but for the rounding"
        assert trial.train.steps == 8 * trial.train.eval_interval, "as many evaluations"
        assert trial.optim == config.trial.optim, "warm-up and decay are shares of its steps"
    told = config_of(search={"flops": 2 * config.search.flops})
    assert told.full_steps({"model.d_model": 32}) == pytest.approx(2 * steps[0], rel=0.02)
    assert with_budget(by_steps, VOCAB) is by_steps
    assert by_steps.plan_step({"model.d_model": 32}, 30) == 30
    for width, trial in zip(WIDTHS, trials, strict=True):
        at = [
            config.plan_step({"model.d_model": width}, n * trial.train.eval_interval)
            for n in range(9)
        ]
        assert at == list(range(0, 90, 10)), "the same clock for all"


def test_what_cannot_be_compared_so_is_refused() -> None:
    assert "add --search.compare flops" in refusal(search={"flops": 1e9})
    trial = sweep_config().trial.model_dump()
    trial["train"] |= {"steps": 85}
    asha = {"grace_period": 10}
    text = refusal(search={"compare": "flops"}, trial=trial, asha=asha)
    assert "trial.train.steps 85 is not a multiple of the evaluation interval 10" in text
    assert "take 80" in text
    with pytest.raises(ConfigError, match=r"search.compare flops: .* raise search.flops"):
        config_of(search={"flops": 1e6})


@pytest.mark.parametrize("algorithm", ["tpe", "gp"])
def test_a_resume_suggests_and_stops_as_if_nothing_had_happened(algorithm: str) -> None:
    whole = Sweep(config_of(algorithm, num_samples=12))
    evaluations = [whole.run(number) for number in range(12)]
    assert {1, 8} <= set(evaluations), "some are stopped at the first rung, some are not"
    for place, event in enumerate(whole.events):
        method = build_method(whole.config, record_of(whole.events[:place]))
        number = int(event.get("trial", "t0")[1:])
        if event["event"] == "trial_started":
            assert method.ask(number, {}) == event["params"], place
        elif event["event"] == "evaluation" and whole.events[place + 1]["event"] == "outcome":
            after = whole.events[: place + 1]
            outcome = whole.events[place + 1]["outcome"]
            stopped = stopped_on_record(whole.config, record_of(after), after)
            assert stopped == ({event["trial"]} if outcome == "stopped" else set()), place


def test_a_rung_ranks_trials_that_have_spent_as_much() -> None:
    config = config_of(num_samples=9, asha={"grace_period": 20, "reduction_factor": 2})
    points = [{"optim.lr": BEST, "model.d_model": width} for width in WIDTHS]
    method = build_method(config, record_of([session()]))
    told = []
    for number, (point, loss) in enumerate(zip(points, (3.0, 2.0, 2.9), strict=True)):
        method.ask(number, point)
        interval = config.trial_config(point).train.eval_interval
        told.append([method.report(number, n * interval, loss) for n in (1, 2)])
    assert told == [[True, True], [True, True], [True, False]], "at the second evaluation of each"


def test_the_fit_goes_by_shares_and_names_the_compute_optimal_size() -> None:
    sweep = Sweep(config_of("random", num_samples=24))
    for number in range(24):
        sweep.run(number)
    config, record = sweep.config, record_of(sweep.events)
    study = Study(config, record)
    _, best = study.by_loss[0]
    assert best.size == (64,)
    rate = best.best[0]
    assert rate == pytest.approx(BEST, rel=0.3)
    assert best.loss == pytest.approx(2.0, abs=0.05)
    assert best.flops == pytest.approx(config.search.flops, rel=0.05)
    (told,) = [f for f in findings(study) if f.kind == "compute_optimal"]
    assert "a trial the best size is d_model=64, expected to end at " in told.text
    assert told.numbers["steps"] == config.full_steps({"model.d_model": 64})
    assert told.numbers["tokens"] == 64 * told.numbers["steps"]
    assert not [f for f in findings(study) if f.kind in ("largest_is_best", "smallest_is_best")]
    row = leaderboard(config, record)[0]
    assert f"{row.step:,} of {row.full_steps:,}" in row.cells()


def test_a_trial_is_replayed_with_its_own_steps() -> None:
    config = config_of()
    params = {"optim.lr": BEST, "model.d_model": 128}
    shared, flags = replay_flags(config)
    values = params | own_settings(config, params)
    words = shlex.split(shared) + [w for n, v in values.items() for w in (flags[n], str(v))]
    default = validate(TrialConfig, read_yaml(config_file("trial.yaml")), "trial.yaml")
    typed = parse_flags(TrialConfig, default, words, "local.py", "")
    assert typed == config.trial_config(params).model_copy(update={"data": typed.data})
    assert own_settings(sweep_config(), params) == {}


def test_time_goes_by_each_trials_own_steps() -> None:
    """A step of a size takes what it took, and a trial has so many of them."""
    config = config_of(time_budget="100s")
    budget = TimeBudget(config, VOCAB)
    small, large = ({"optim.lr": BEST, "model.d_model": width} for width in (32, 128))
    for name, params, each in (("t000", small, 0.01), ("t001", large, 0.05)):
        at = 1_700_000_000.0
        budget.notice(started(name, params=params))
        for step in (0, 40):
            metrics = {"step": step, "val_loss": 3.0}
            event = {"event": "evaluation", "trial": name, "metrics": metrics}
            budget.notice({**event, "time": at + step * each})
    for params, each in ((small, 0.01), (large, 0.05)):
        trial = config.trial_config(params)
        assert budget.expected_seconds(trial) == pytest.approx(each * trial.train.steps)
        assert budget.expected_seconds(trial, trial.train.steps) == 0.0


def test_the_plan_says_what_equal_flops_are(tiny_config: MakeConfig) -> None:
    dataset = open_dataset(tiny_config().data, 16)
    trial = {**TRIAL, "data": {"dataset": str(dataset.folder)}}
    unset = sweep_config(space=SPACE, search={"compare": "flops"}, trial=trial)
    config = with_budget(unset, dataset.vocab_size)
    plan = make_plan(config, dataset, 2)
    small, large = plan.smallest.steps, plan.largest.steps
    assert (small, large) == tuple(
        config.full_steps({"model.d_model": width}) for width in (32, 128)
    )
    assert mean_flops(config, dataset.vocab_size) == pytest.approx(config.search.flops, rel=0.05)
    text = "\n".join(plan_lines(config, plan, "the data", 2, 300.0))
    assert f"FLOP a trial, whatever its size: {small:,} to {large:,} steps, " in text
    assert "evaluated 8 times on 8 fixed windows" in text
    assert "rungs     12.5%, 25%, 50% of a trial's steps, the best 1/2 go on" in text
    ends = Speed(0.01, 0.0, 1.0), Speed(0.05, 0.0, 1.0)
    one = config.model_copy(update={"num_samples": 1, "asha": AshaConfig(enabled=False)})
    one_plan = make_plan(one, dataset, 1)
    seconds = expected_seconds(one, one_plan, ends, 1)
    assert 0.05 * large < seconds < 0.01 * small or 0.01 * small < seconds < 0.05 * large
    assert plan.cost(None).steps == plan.steps
    assert small * plan.share > plan.steps / config.num_samples > large * plan.share


def test_the_pictures_are_drawn_over_shares(project: Any) -> None:
    sweep = Sweep(config_of("random", num_samples=12))
    for number in range(12):
        sweep.run(number)
    folder, _ = new_sweep("shares", sweep.config)
    write_events(folder, *sweep.events)
    facts = Facts.read(folder)
    picture = curves(facts)
    assert "share of the FLOPs" in json.dumps(picture.layout)
    drawn = {x for trace in picture.traces for x in trace["x"] if x is not None}
    assert drawn == {12.5 * n for n in range(1, 9)}
    assert "trials at 12.5%, " in rungs(facts).sentence
    assert status(["shares"]) == 0


def test_sweeps_of_unlike_plans_are_said_not_to_be_compared(project: Any) -> None:
    config = config_of()
    twice = config_of(search={"flops": 2 * config.search.flops})
    folders = []
    for name, own in (("flops", config), ("twice", twice), ("steps", sweep_config(space=SPACE))):
        folder, _ = new_sweep(name, own)
        write_events(folder, session(), run_of("t000", {0: 5.5, 40: 3.0}, None))
        folders.append(folder)

    def said(*chosen: int) -> str:
        page = write_comparison([folders[n] for n in chosen]).read_text()
        found = re.search(r"Their losses are not to be compared: the sweeps differ in [^<]*", page)
        return found[0] if found else ""

    assert said(0, 1).endswith("differ in search.flops.")
    assert "search.compare" in said(0, 2)
    assert said(0, 0) == ""


def test_a_sweep_starts_from_no_older_one_of_an_unlike_plan(project: Any) -> None:
    config = config_of()
    folder, _ = new_sweep("old", config)
    write_events(folder, session(), run_of("t000", {0: 5.5, 80: 3.0}, "finished"))
    flops = config.search.flops
    same = config_of(search={"flops": flops, "warm_start": ["old"]})
    assert len(warm_started(same, "da7a5e7")[1]) == 1
    twice = config_of(search={"flops": 2 * flops, "warm_start": ["old"]})
    with pytest.raises(ConfigError, match=r"search.warm_start old: .* losses of unlike plans"):
        warm_started(twice, "da7a5e7")
    by_steps = sweep_config(space=SPACE, search={"warm_start": ["old"]})
    with pytest.raises(ConfigError, match=r"at equal FLOPs, search.flops .*, here at equal steps"):
        warm_started(by_steps, "da7a5e7")


@pytest.mark.slow
def test_a_real_sweep_at_equal_flops(tmp_path: Path) -> None:
    """Its trials end on the budget, where their schedule does; the best is restored to the bit."""
    flags = (
        "--config",
        str(make_project(tmp_path)),
        "--name",
        "equal",
        "--search.compare",
        "flops",
    )
    flags += ("--trial.train.steps", "80", "--trial.train.eval-every", "20", *FIXED)
    flags += ("--asha.no-enabled", "--search.startup-trials", "1")
    planned = run(tmp_path, "sweep/run.py", *flags, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert re.search(
        r"^budget    [\d.]+ \wFLOP a trial, whatever its size: 1\d\d to [56]\d steps, "
        r"[\d.k]+ to [\d.k]+ tokens; evaluated 4 times on 16 fixed windows$",
        planned.stdout,
        re.MULTILINE,
    ), planned.stdout
    done = run(tmp_path, "sweep/run.py", *flags)
    assert done.returncode == 0, done.stderr + done.stdout
    folder = tmp_path / "results" / "equal"
    config = read_sweep(folder).config
    assert config.search.flops is not None
    assert config.search.vocab_size is not None
    record = SweepRecord.read(folder)
    assert {trial.outcome for trial in record.trials.values()} == {"finished"}
    steps = {}
    for trial in record.trials.values():
        full = config.trial_config(trial.params)
        interval = full.train.eval_interval
        assert [e["step"] for e in trial.evaluations] == [n * interval for n in range(5)]
        spent = trial.evaluations[-1]["flops"]
        assert spent == trial_flops(full, config.search.vocab_size)
        assert abs(config.search.flops / spent - 1) <= 0.5 / interval
        last = learning_rate(full.train.steps, full.optim, full.train.steps)
        assert trial.evaluations[-1]["lr"] == pytest.approx(last)
        assert last == pytest.approx(0.1 * full.optim.lr), "the cosine's end"
        steps[trial.params["model.d_model"]] = full.train.steps
    assert steps[16] > 80 > steps[32]
    best = run(tmp_path, "sweep/best.py", "equal")
    assert best.returncode == 0, best.stderr
    assert "the same to the last bit" in best.stdout
    resume = ("--resume", "equal", "--num-samples", "8", "--dry-run")
    more = run(tmp_path, "sweep/run.py", *resume)
    assert more.returncode == 0, more.stderr
    assert "0 trials to go on with, 2 new ones" in more.stdout
    (budget,) = [line for line in planned.stdout.splitlines() if line.startswith("budget")]
    assert budget in more.stdout, "the one that it began with"
