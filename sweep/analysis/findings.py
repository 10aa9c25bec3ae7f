"""What a sweep found, in words: the same in the terminal, the report, MLflow and JSON."""

from collections.abc import Callable, Iterator, Mapping

from sweep.analysis import findings_of_budget as budget
from sweep.analysis import findings_of_losses as losses
from sweep.analysis import findings_of_trials as trials
from sweep.analysis.finding import Finding
from sweep.analysis.study import Study

MOST = 7
"""Findings of a sweep: a list that is longer is not read."""

RULES: tuple[Callable[[Study], Iterator[Finding]], ...] = (
    trials.unfinished,
    trials.none_finished,
    trials.failed,
    trials.out_of_memory,
    budget.compute_optimal,
    losses.least_known,
    losses.lead,
    losses.better_elsewhere,
    losses.edge_of_the_range,
    losses.largest_or_smallest,
    losses.beyond_what_was_tried,
    trials.tried_once,
    trials.never_tried,
    trials.diverged,
    trials.time_taken,
)
"""From what matters the most for the answer to what matters the least; each makes one or none."""

BESIDE_THE_GOAL: Mapping[str, tuple[Callable[[Study], Iterator[Finding]], ...]] = {
    "best": (losses.least_known, losses.beyond_what_was_tried, trials.tried_once),
    "table": (losses.lead, losses.better_elsewhere, losses.largest_or_smallest),
    "both": (losses.least_known,),
}
"""Rules that say nothing of what a sweep was to find, by its goal."""


def findings(study: Study) -> list[Finding]:
    """Return what a sweep found, the most useful first; nothing of which its record has no data."""
    if not study.record.trials:
        return []
    beside = BESIDE_THE_GOAL[study.config.search.goal]
    rules = [rule for rule in RULES if rule not in beside]
    return [finding for rule in rules for finding in rule(study)][:MOST]
