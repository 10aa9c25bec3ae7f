"""The points that a model-based search chooses among."""

import numpy as np
from sweep_samples import sweep_config

from sweep.analysis.axes import axes_of, input_axes
from sweep.config.sweep import SweepConfig
from sweep.search.candidates import MOST_SIZES, Candidates

LRS = {"optim.lr": {"loguniform": [1e-4, 1e-2]}}


def candidates_of(config: SweepConfig) -> Candidates:
    return Candidates(config, axes_of(config.space), input_axes(config, []))


def test_of_too_many_sizes_an_even_choice_has_the_smallest_and_the_largest() -> None:
    widths = list(range(32, 32 + 16 * 40, 16))
    sizes = candidates_of(sweep_config(space=LRS | {"model.d_model": {"choice": widths}})).sizes
    assert len(sizes) == len(set(sizes)) == MOST_SIZES
    assert sizes[0] == (widths[0],)
    assert sizes[-1] == (widths[-1],)
    assert max(np.diff([width for (width,) in sizes])) == 2 * 16


def test_few_sizes_are_all_there_with_rates_from_end_to_end() -> None:
    space = LRS | {"model.d_model": {"choice": [32, 64]}, "model.n_layers": {"choice": [1, 2]}}
    found = candidates_of(sweep_config(space=space))
    assert sorted(found.sizes) == [(32, 1), (32, 2), (64, 1), (64, 2)]
    for place, size in enumerate(found.sizes):
        own = [p for p, n in zip(found.points, found.size.tolist(), strict=True) if n == place]
        rates = [point["optim.lr"] for point in own]
        assert {found.size_of(point) for point in own} == {place}
        assert {(p["model.d_model"], p["model.n_layers"]) for p in own} == {size}
        np.testing.assert_allclose([min(rates), max(rates)], [1e-4, 1e-2])
    assert found.size_of({"model.d_model": 96, "model.n_layers": 1}) is None


def test_a_point_is_moved_within_its_gap_and_within_the_space() -> None:
    """The same point again would train the same bits."""
    found = candidates_of(sweep_config(space=LRS | {"model.d_model": {"choice": [32, 64]}}))
    rates = sorted({point["optim.lr"] for point in found.points})
    gap = np.log(rates[1] / rates[0])
    rng = np.random.default_rng(0)
    for rate in (rates[0], rates[7], rates[-1]):
        moved = [found.near({"optim.lr": rate, "model.d_model": 64}, rng) for _ in range(200)]
        assert {point["model.d_model"] for point in moved} == {64}
        off = np.log([point["optim.lr"] / rate for point in moved]) / gap
        assert 0.4 < np.abs(off).max() < 0.5, "half a gap to either side"
        assert len({point["optim.lr"] for point in moved}) > 90
        assert all(1e-4 <= point["optim.lr"] <= 1e-2 for point in moved)
