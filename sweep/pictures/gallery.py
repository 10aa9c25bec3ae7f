"""All pictures by name, in the order in which a report shows them."""

from collections.abc import Callable

from sweep.analysis.facts import Facts
from sweep.pictures import curves, frontier, rates, valleys
from sweep.pictures.picture import Picture

PICTURES: dict[str, Callable[[Facts], Picture]] = {
    valleys.KEY: valleys.valleys,
    curves.KEY: curves.curves,
    frontier.KEY: frontier.frontier,
    rates.KEY: rates.rates,
}

STATIC = (valleys.KEY, curves.KEY, frontier.KEY, rates.KEY)
"""Those that are written as SVG files, too."""
