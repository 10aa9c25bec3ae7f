"""One trial: a language model, its data, its training loop and its checkpoints."""
