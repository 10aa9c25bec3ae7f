"""Trials that no node is large enough for: told once, and once more when there is such a node."""

from collections.abc import Sequence

from sweep.config.parts import Part


class Waiting:
    """Says which trials of a sweep wait for a node, as nodes come and go."""

    def __init__(self) -> None:
        self._told: dict[str | None, Part] = {}
        """The parts that are known to wait, by their conditions."""

    def news(self, without: Sequence[Part], nodes: str) -> list[str]:
        """Return what there is to tell, in lines.

        Args:
            without: the parts of the sweep that no node is large enough for.
            nodes: what the nodes have, in words.
        """
        waiting = {part.condition: part for part in without}
        news = [
            f"no node is left with the {part.share.words} that {part.words} take each ({nodes}): "
            f"they wait, and those behind them, until one joins"
            for condition, part in waiting.items()
            if condition not in self._told
        ]
        news += [
            f"{part.words} go on: a node with {part.share.words} has joined"
            for condition, part in self._told.items()
            if condition not in waiting
        ]
        self._told = waiting
        return news
