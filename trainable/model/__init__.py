"""The Transformer, and its size in parameters and FLOPs."""
