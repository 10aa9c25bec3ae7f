"""The finding of a sweep at equal FLOPs: the size that is best for the budget."""

from collections.abc import Iterator

from sweep.analysis.finding import Finding, listed
from sweep.analysis.sizes import place_of, size_fields
from sweep.analysis.study import Study
from sweep.analysis.words import flops_text, magnitude, size_text


def compute_optimal(study: Study) -> Iterator[Finding]:
    """Say which size is best where each trial may spend as many FLOPs."""
    config, rows = study.config, study.by_loss
    if not config.by_flops or config.search.flops is None or len(rows) < 2:
        return
    fields = size_fields(config)[0]
    loss, best = rows[0]
    trial = config.trial_config(place_of(config, best))
    tokens = trial.tokens_per_step * trial.train.steps
    parameters = study.parameters(place_of(config, best))
    alike = [row.size for end, row in rows[1:] if end < loss + best.deviation]
    model = f"{magnitude(parameters)} parameters on " if parameters else ""
    names = [size_text(fields, size) for size in alike]
    also = f"; within the deviation of that: {listed(names)}" if names else ""
    yield Finding(
        "compute_optimal",
        f"at {flops_text(config.search.flops)} a trial the best size is "
        f"{size_text(fields, best.size)}, expected to end at {loss:.3f} +- {best.deviation:.3f}: "
        f"{model}{magnitude(tokens)} tokens{also}",
        {
            "size": list(best.size),
            "flops": config.search.flops,
            "loss": loss,
            "deviation": best.deviation,
            "parameters": parameters,
            "steps": trial.train.steps,
            "tokens": tokens,
            "alike": [list(size) for size in alike],
        },
        "of sizes compared at equal FLOPs the one whose expected final loss is lowest, by the fit",
    )
