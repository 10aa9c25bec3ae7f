"""How model sizes look in every picture: a colour for the width, a shape for the rest."""

from dataclasses import dataclass
from typing import Any

from sweep.analysis.facts import Facts
from sweep.analysis.study import Size
from sweep.pictures.picture import COLOURS, DASHES, SYMBOLS


@dataclass(frozen=True)
class Look:
    """Colour, symbol and dash of a size."""

    colour: str
    symbol: str
    dash: str

    def marker(self, *, hollow: bool = False, size: int = 9, opacity: float = 1.0) -> Any:
        """Return plotly's marker."""
        symbol = f"{self.symbol}-open" if hollow else self.symbol
        width = {"width": 1.5} if hollow else {"width": 0}
        # The opacity is said since plotly fades marks of unlike sizes by itself.
        return {
            **{"symbol": symbol, "color": self.colour, "size": size, "line": width},
            "opacity": opacity,
        }


def looks_of(facts: Facts) -> dict[tuple[Any, ...], Look]:
    """Return the look of each size: the first field gives the colour, the others the shape."""
    firsts = _numbered(facts.sizes, 0, 1)
    rests = _numbered(facts.sizes, 1, None)
    looks = {}
    for size in facts.sizes:
        first, rest = firsts[size.values[:1]], rests[size.values[1:]]
        if len(rests) == 1:
            rest = first  # one field only: colour and shape both tell it
        looks[size.values] = Look(
            COLOURS[first % len(COLOURS)], SYMBOLS[rest % len(SYMBOLS)], DASHES[rest % len(DASHES)]
        )
    return looks


def _numbered(sizes: list[Size], begin: int, end: int | None) -> dict[tuple[Any, ...], int]:
    values = sorted({size.values[begin:end] for size in sizes}, key=lambda v: (len(v), v))
    return {value: number for number, value in enumerate(values)}
