"""What a search is told of a trial without a finite loss."""

OBJECTIVE_OF_A_LOST_TRIAL = 1e9
"""What Tune is told of a trial without a finite loss: NaN would never be stopped and never learnt
from. It is compared, never shown or recorded."""
