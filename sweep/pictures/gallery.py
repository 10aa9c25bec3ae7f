"""All pictures by name, in the order in which a report shows them."""

from collections.abc import Callable

from sweep.analysis.facts import Facts
from sweep.pictures import curves, frontier, parallel, rates, strip, timeline, valleys
from sweep.pictures.picture import Picture

PICTURES: dict[str, Callable[[Facts], Picture]] = {
    valleys.KEY: valleys.valleys,
    curves.KEY: curves.curves,
    frontier.KEY: frontier.frontier,
    rates.KEY: rates.rates,
    strip.KEY: strip.rungs,
    parallel.KEY: parallel.parallel,
    parallel.IMPORTANCE_KEY: parallel.importance,
    timeline.KEY: timeline.timeline,
}

FILES = (valleys.KEY, curves.KEY, frontier.KEY, rates.KEY)
"""Those that are written as SVG files, too."""
