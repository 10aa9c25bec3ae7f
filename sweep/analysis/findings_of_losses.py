"""Findings about the losses: who leads, what is expected elsewhere, where the space should grow."""

import math
from collections.abc import Iterator

from sweep.analysis.finding import Finding, listed
from sweep.analysis.sizes import SizeRow, place_of, size_fields
from sweep.analysis.study import Study
from sweep.analysis.words import params_text, size_text
from sweep.config.space import RATE
from sweep.record.results import TrialRecord

END_OF_RANGE = 0.05
"""Share of the range searched, logarithmically, that counts as its end."""
FEWEST_TRIALS = 3
"""Trials that were trained without which nothing is said of the edge of the range."""
KNOWN_WELL = 1.0
"""Octaves between the ends of a best rate's interval, within which it counts as well known."""
WIDER = 3
"""By what factor a range is to grow at the end where its best rate lies."""


def lead(study: Study) -> Iterator[Finding]:
    """Say whether the best trial's lead over the second means anything."""
    finished = [t for t in study.record.ranked if t.outcome == "finished"]
    if len(finished) < 2 or finished[0] is not study.record.best or study.noise is None:
        return
    best, second, *_ = finished
    by, noise = second.best_val_loss - best.best_val_loss, study.noise
    tied = [t.name for t in finished if t.best_val_loss - best.best_val_loss < noise]
    ahead = f"{best.name} leads {second.name} by {by:.4f} nats"
    if len(tied) > 1:
        of = f" of {len(tied)} trials" if len(tied) > 2 else ""
        text = f"{ahead}, less than the noise between two trials, {noise:.3f}: a tie{of}"
    else:
        text = f"{ahead}, {by / noise:.1f} times the noise between two trials, {noise:.3f}"
    yield Finding(
        "lead",
        text,
        {"best": best.name, "second": second.name, "lead": by, "noise": noise, "tied": tied},
        "of finished trials; noise: standard deviation of the difference of two trials' losses, by "
        "chance (what the fit leaves) and from the validation windows (by the plan); a tie: a lead "
        "below it; another training seed may shift all losses of a size, too",
    )


def least_known(study: Study) -> Iterator[Finding]:
    """Say how many sizes' best rates are known well, and which is known the least."""
    octaves = {
        _name(study, row): math.log2(row.rates[1] / row.rates[0])
        for row in study.sizes
        if row.rates is not None and row.rates[0] > 0
    }
    if len(octaves) < 2:
        return
    row = max(study.sizes, key=lambda row: octaves.get(_name(study, row), 0.0))
    assert row.rates is not None
    good = sum(width <= KNOWN_WELL for width in octaves.values())
    yield Finding(
        "least_known",
        f"the best rate is known within a factor of {2**KNOWN_WELL:g} for {good} of {len(octaves)} "
        f"sizes that were tried, the least for {_name(study, row)}: "
        f"{row.rates[0]:.2g} .. {row.rates[1]:.2g}",
        {
            "size": list(row.size),
            "rates": list(row.rates),
            "known_well": good,
            "sizes": len(octaves),
        },
        "the interval that holds a size's best rate with 80 %, by the fit, its ends a factor of "
        f"{2**KNOWN_WELL:g} apart or less",
    )


def better_elsewhere(study: Study) -> Iterator[Finding]:
    """Name a size that is expected to beat the best trial."""
    best = _winner(study)
    if best is None:
        return
    better = [
        (loss, row)
        for loss, row in study.by_loss
        if not row.known and loss + row.deviation < best.best_val_loss
    ]
    if not better:
        return
    loss, row = better[0]
    _, others = size_fields(study.config)
    more = [_name(study, other) for _, other in better[1:]]
    also = f" (so is {listed(more)})" if more else ""
    yield Finding(
        "better_elsewhere",
        f"{_name(study, row)} at {params_text(dict(zip(others, row.best, strict=True)))} is "
        f"expected to end at {loss:.3f} +- {row.deviation:.3f}, "
        f"{best.best_val_loss - loss:.3f} below the best trial{also}: train it",
        {
            "params": place_of(study.config, row),
            "loss": loss,
            "deviation": row.deviation,
            "best_loss": best.best_val_loss,
            "sizes": [list(other.size) for _, other in better],
        },
        "a size of which no trial finished near its best rate, and whose expected final loss is "
        "below the best trial's by more than its standard deviation",
    )


def edge_of_the_range(study: Study) -> Iterator[Finding]:
    """Say that the best rate lies at an end of the range that was searched."""
    domain = study.config.space.get(RATE)
    trained = [t for t in study.record.trials.values() if t.is_comparable and t.step]
    if study.surface is None or domain is None or len(trained) < FEWEST_TRIALS:
        return
    row = next((row for _, row in study.by_loss), None)
    size = dict(zip(size_fields(study.config)[0], row.size, strict=True)) if row else {}
    found = study.surface.best(size)
    if found.rates is None or found.loss is None:
        return
    rate, low, high = found.params[RATE], min(domain.values), max(domain.values)
    if not 0 < low < high:
        return
    place = math.log(rate / low) / math.log(high / low)
    if place >= 1 - END_OF_RANGE:
        end, attempt = "upper", (found.rates[0], high * WIDER)
    elif place <= END_OF_RANGE:
        end, attempt = "lower", (low / WIDER, found.rates[1])
    else:
        return
    of = f" of {_name(study, row)}" if row else ""
    yield Finding(
        "edge_of_the_range",
        f"the best rate{of}, {rate:.2g}, lies at the {end} end of the range that was searched, "
        f"{low:.2g} .. {high:.2g}: search {attempt[0]:.2g} .. {attempt[1]:.2g}",
        {"rate": rate, "range": [low, high], "try": list(attempt)},
        f"the best rate of the best size, by the fit, lies in the outer {END_OF_RANGE:.0%} of the "
        "range, logarithmically",
    )


def largest_or_smallest(study: Study) -> Iterator[Finding]:
    """Say that the best size lies at an end of those that were tried."""
    config = study.config
    rows = [(loss, row) for loss, row in study.by_loss if row.flops]
    if len(rows) < 2:
        return
    loss, best = rows[0]

    def step_flops(pair: tuple[float, SizeRow]) -> float:
        return (pair[1].flops or 0.0) / config.full_steps(place_of(config, pair[1]))

    smallest, *_, largest = sorted(rows, key=step_flops)
    other = smallest if rows[0] is largest else largest
    if rows[0] not in (smallest, largest) or loss + best.deviation >= other[0]:
        return
    end, extreme, more, advice = (
        ("largest", "most", "larger", "" if config.by_flops else ", or compare at equal FLOPs")
        if rows[0] is largest
        else ("smallest", "least", "smaller", "")
    )
    yield Finding(
        f"{end}_is_best",
        f"the {end} of {len(rows)} sizes, {_name(study, best)}, is expected to end lowest, at "
        f"{loss:.3f}: search {more} ones{advice}",
        {
            "size": list(best.size),
            "loss": loss,
            "deviation": best.deviation,
            "flops": best.flops,
            "sizes": len(rows),
        },
        f"the size with the {extreme} FLOPs a step has the lowest "
        "expected final loss, by more than its standard deviation below that of the other end",
    )


def beyond_what_was_tried(study: Study) -> Iterator[Finding]:
    """Name sizes whose best rate lies beyond all rates that they were tried at."""
    beyond = [
        row
        for _, row in study.by_loss
        if row.rates and row.tried and (row.trials > 1 or row.finished) and _is_outside(row)
    ]
    if not beyond:
        return
    row = beyond[0]
    assert row.rates is not None
    assert row.tried is not None
    rate = row.best[size_fields(study.config)[1].index(RATE)]
    side, end = ("below", row.tried[0]) if row.rates[1] < row.tried[0] else ("above", row.tried[1])
    more = [_name(study, other) for other in beyond[1:]]
    also = f"; likewise of {listed(more)}" if more else ""
    yield Finding(
        "beyond_what_was_tried",
        f"the best rate of {_name(study, row)}, {rate:.2g}, lies {side} all that were tried of "
        f"it, from {end:.2g}: try {row.rates[0]:.2g} .. {row.rates[1]:.2g}{also}",
        {
            "size": list(row.size),
            "rate": rate,
            "try": list(row.rates),
            "tried": list(row.tried),
            "sizes": [list(other.size) for other in beyond],
        },
        "the interval that holds a size's best rate with 80 %, by the fit, lies outside of the "
        "rates of its trials",
    )


def _winner(study: Study) -> TrialRecord | None:
    best = study.record.best
    return best if best is not None and best.outcome == "finished" else None


def _name(study: Study, row: SizeRow) -> str:
    return size_text(size_fields(study.config)[0], row.size)


def _is_outside(row: SizeRow) -> bool:
    assert row.rates is not None
    assert row.tried is not None
    return row.rates[1] < row.tried[0] or row.rates[0] > row.tried[1]
