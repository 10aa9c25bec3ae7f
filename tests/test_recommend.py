"""What to train after a sweep: the best point, the law of the rate, and a size it never had."""

import io
import json
import math
import shlex
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from live_sweeps import ROOT
from rich.console import Console
from sweep_samples import new_sweep, record_of, run_of, session, sweep_config, write_events

from sweep import status
from sweep.analysis.power_law import fit_power_law
from sweep.analysis.recommendation import parse_size, recommend
from sweep.analysis.study import Study
from sweep.common.errors import SweepError
from sweep.record.events import Event
from sweep.record.results import SweepRecord
from sweep.show.summary import show_summary
from trainable.common.errors import ConfigError
from trainable.common.paths import config_file
from trainable.config.explain import validate
from trainable.config.flags import parse_flags
from trainable.config.trial import TrialConfig
from trainable.config.yaml_file import read_yaml

WIDTHS = (32, 64, 128, 256)
SPACE = {
    "optim.lr": {"loguniform": [1e-4, 1e-2]},
    "model.d_model": {"choice": list(WIDTHS)},
    "model.n_layers": {"choice": [1, 2, 4]},
}


def best_rate(d_model: int, n_layers: int) -> float:
    return 2e-3 * (d_model / 32) ** -0.7 * n_layers**-0.2


def trained(sizes: list[tuple[int, int]]) -> list[Event]:
    """Return full trials of each size at four rates around its best one."""
    rng, events = np.random.default_rng(0), []
    for number, (width, layers) in enumerate(size for size in sizes for _ in range(4)):
        off = (number % 4 - 1.5) * 0.5
        end = 2.0 - 0.1 * math.log(width * layers) + 0.12 * off**2 + rng.normal(0, 0.002)
        told = {0: 5.5, 40: end + 0.3, 80: end}
        rate = best_rate(width, layers) * math.exp(off)
        own = run_of(f"t{number:03d}", told, "finished", lr=rate, d_model=width)
        own[0]["params"] |= {"model.n_layers": layers}
        events += own
    return events


ALL = [(width, layers) for width in WIDTHS for layers in (1, 2, 4)]


def study_of(sizes: list[tuple[int, int]], space: dict[str, Any] = SPACE) -> Study:
    return Study(sweep_config(space=space), record_of(trained(sizes)))


def test_a_law_is_found_with_its_exponents_and_what_it_misses_is_in_the_band() -> None:
    sizes = [[float(w), float(n)] for w, n in ALL]
    rates = np.array([[best_rate(w, n) for w, n in ALL]] * 400)
    exact = fit_power_law(sizes, rates)
    assert exact is not None
    assert [middle for _, middle, _ in exact.exponents] == pytest.approx([-0.7, -0.2])
    assert exact.rate([1024, 8]) == pytest.approx([best_rate(1024, 8)] * 3)
    assert exact.residual == pytest.approx(0, abs=1e-9)
    off = 0.2 * np.random.default_rng(0).standard_normal(len(sizes))
    rough = fit_power_law(sizes, rates * np.exp(off))
    assert rough is not None
    assert rough.residual == pytest.approx(0.2, rel=0.4)
    low, middle, high = rough.rate([1024, 8])
    assert math.log(middle / low) == pytest.approx(1.28 * rough.residual, rel=0.15)
    assert math.log(high / middle) == pytest.approx(1.28 * rough.residual, rel=0.15)
    assert fit_power_law(sizes[:3], rates[:, :3]) is None, "it could go through all of them"
    assert fit_power_law([[w, w] for w, _ in sizes], rates) is None, "which of the two is it?"


def test_the_best_point_is_recommended_in_full() -> None:
    told = recommend(study_of(ALL))
    params = told.in_full.params
    assert (params["model.d_model"], params["model.n_layers"]) == (256, 4)
    assert params["optim.lr"] == pytest.approx(best_rate(256, 4), rel=0.2)
    assert told.in_full.loss == pytest.approx(2.0 - 0.1 * math.log(1024), abs=0.02)
    assert told.fields == ["model.d_model", "model.n_layers"]
    assert told.law is not None
    for (low, middle, high), truth in zip(told.law.exponents, (-0.7, -0.2), strict=True):
        assert low < middle < high
        assert middle == pytest.approx(truth, abs=0.12)
    assert told.asked is None


def test_the_rate_of_a_larger_size_is_drawn_on_and_said_to_be() -> None:
    study = study_of(ALL)
    told = recommend(study, parse_size(study, "d_model=512, n_layers=8")).asked
    assert told is not None
    assert told.extrapolated
    assert told.loss is None
    assert told.rate[0] < best_rate(512, 8) < told.rate[2]
    assert told.rate[1] == pytest.approx(best_rate(512, 8), rel=0.3)
    assert told.params["optim.lr"] == told.rate[1]
    assert told.params["model.d_model"] == 512


def test_other_fields_of_a_larger_size_are_those_of_the_nearest_one() -> None:
    """The fit knows nothing far outside; only of the rate there is a law."""
    rng, events = np.random.default_rng(1), []
    for number in range(48):
        width, decay = WIDTHS[number % 4], float(rng.uniform(0.0, 0.3))
        off = (number // 4 % 4 - 1.5) * 0.5
        best_decay = 0.05 if width == 32 else 0.25
        told = {0: 5.5, 80: 2.0 + 0.12 * off**2 + 8 * (decay - best_decay) ** 2}
        rate = best_rate(width, 1) * math.exp(off)
        own = run_of(f"t{number:03d}", told, "finished", lr=rate, d_model=width)
        own[0]["params"] |= {"optim.weight_decay": decay}
        events += own
    space = {
        "optim.lr": SPACE["optim.lr"],
        "model.d_model": SPACE["model.d_model"],
        "optim.weight_decay": {"uniform": [0.0, 0.3]},
    }
    study = Study(sweep_config(space=space), record_of(events))
    for width, nearest, best_decay in ((16, 32, 0.05), (4096, 256, 0.25)):
        told = recommend(study, parse_size(study, f"d_model={width}")).asked
        known = recommend(study, parse_size(study, f"d_model={nearest}")).asked
        assert told is not None
        assert known is not None
        assert told.params["optim.weight_decay"] == known.params["optim.weight_decay"]
        assert told.params["optim.weight_decay"] == pytest.approx(best_decay, abs=0.05)


def test_the_rate_of_a_size_between_those_tried_comes_with_a_loss() -> None:
    study = study_of(ALL)
    told = recommend(study, parse_size(study, "model.d_model=96 n_layers=2")).asked
    assert told is not None
    assert not told.extrapolated
    assert told.rate[1] == pytest.approx(best_rate(96, 2), rel=0.25)
    assert told.loss == pytest.approx(2.0 - 0.1 * math.log(192), abs=0.03)
    assert told.deviation is not None


def test_too_few_sizes_give_no_law() -> None:
    study = study_of([(32, 1), (64, 2)])
    assert recommend(study).law is None
    with pytest.raises(SweepError, match=r"--size: d_model, n_layers lies outside .* 2 sizes were"):
        recommend(study, parse_size(study, "d_model=512,n_layers=8"))
    with pytest.raises(SweepError, match="no trial has been trained"):
        recommend(Study(sweep_config(), record_of([])))


def test_a_field_that_took_one_value_is_no_part_of_the_law() -> None:
    study = study_of([(width, 2) for width in WIDTHS])
    told = recommend(study, parse_size(study, "d_model=512,n_layers=2"))
    assert told.fields == ["model.d_model"]
    assert told.asked is not None
    assert told.asked.rate[1] == pytest.approx(best_rate(512, 2), rel=0.3)
    with pytest.raises(SweepError, match="n_layers lies outside"):
        recommend(study, parse_size(study, "d_model=512,n_layers=8"))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("d_model=512", "give n_layers, too"),
        ("width=512", "the sweep's sizes are told as d_model=...,n_layers=..."),
        ("d_model=500,n_layers=2", "d_model = 500.* is refused"),
        ("d_model=wide,n_layers=2", "d_model = 'wide'.* is refused"),
        ("lr=3", "the sweep's sizes are told as"),
    ],
)
def test_a_size_that_is_none_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        parse_size(study_of(ALL), text)


def test_the_command_tells_it_in_words_and_as_json(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = new_sweep("wide", sweep_config(space=SPACE))
    write_events(folder, session(), trained(ALL))
    assert status.main(["wide", "--recommend", "--size", "d_model=512,n_layers=8"]) == 0
    text = capsys.readouterr().out
    assert "wide: by the fit to the curves of 48 trials, train in full\n" in text
    assert "d_model=256 n_layers=4, expected to end at 1." in text
    assert "the best rate goes as d_model^-0.7" in text
    assert "d_model=512 n_layers=8" in text
    assert "outside the space: the power law drawn on; nothing was trained there" in text
    for line in text.splitlines():
        if "local.py" in line:
            default = validate(TrialConfig, read_yaml(config_file("trial.yaml")), "trial.yaml")
            words = shlex.split(line.partition("local.py")[2])
            typed = parse_flags(TrialConfig, default, words, "local.py", "")
            assert typed.model.d_model in (256, 512)
            assert typed.train.steps == 80
    assert status.main(["wide", "--recommend", "--size", "d_model=512,n_layers=8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, json.loads((ROOT / "formats.schema.json").read_text()))
    assert told["in_full"]["params"]["model.d_model"] == 256
    assert told["size"]["extrapolated"] is True
    assert told["size"]["parameters"] == 25_175_552
    assert set(told["law"]["exponents"]) == {"model.d_model", "model.n_layers"}
    with pytest.raises(ConfigError, match="goes with --recommend"):
        status.main(["wide", "--size", "d_model=512,n_layers=8"])


def test_of_a_sweep_for_the_table_the_rates_of_all_sizes_come_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    search = {"algorithm": "gp", "goal": "table"}
    folder, _ = new_sweep("table", sweep_config(space=SPACE, search=search))
    write_events(folder, session(), trained(ALL))
    assert status.main(["table", "--recommend"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "table: by the fit to the curves of 48 trials, each size at"
    rows = [dict(part.split("=") for part in line.split(";")[0].split()) for line in lines[1:13]]
    assert {(int(row["d_model"]), int(row["n_layers"])) for row in rows} == set(ALL)
    for row in rows:
        truth = best_rate(int(row["d_model"]), int(row["n_layers"]))
        assert float(row["lr"]) == pytest.approx(truth, rel=0.35)
    assert lines[13:15] == ["", "the lowest of all"]
    shown = {}
    for goal in ("table", "both"):
        config = sweep_config(space=SPACE, search=search | {"goal": goal})
        file = io.StringIO()
        show_summary(
            folder, Study(config, SweepRecord.read(folder)), None, Console(width=160, file=file)
        )
        shown[goal] = file.getvalue()
    sizes = "best learning rate for each model size"
    assert shown["table"].index(sizes) < shown["table"].index("bits/byte") < len(shown["table"])
    assert shown["both"].index("bits/byte") < shown["both"].index(sizes)
