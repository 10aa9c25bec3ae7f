"""One trial: a language model, its data, its training loop and its checkpoints."""

import os

# Two torch threads on contended cores spin: 37 times slower without this. OpenMP reads it when it
# is loaded, with torch, so it must be set before any module here imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
