"""How good a search is: real learning curves, replayed to search methods by a simulated clock."""
