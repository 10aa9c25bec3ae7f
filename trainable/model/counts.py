"""Parameters and floating-point operations of a model, from its config alone (no torch needed)."""

from trainable.config.trial import ModelConfig


def parameter_count(model: ModelConfig, vocab_size: int, *, embedding: bool = True) -> int:
    """Return the number of trainable parameters.

    Args:
        model: the size.
        vocab_size: number of token ids.
        embedding: count the token embedding, too. Without it, a tied matrix counts as the head.
    """
    head = 0 if model.tie_embeddings and embedding else vocab_size * model.d_model
    norms = (2 * model.n_layers + 1) * model.d_model
    total = model.n_layers * _block_matrices(model) + norms + head
    return total + (vocab_size * model.d_model if embedding else 0)


def flops_per_token(model: ModelConfig, vocab_size: int) -> int:
    """Return the FLOPs of training on one token: forward and backward of all matrix products.

    A product of an (m, k) and a (k, n) matrix counts 2 m k n; the backward pass costs twice the
    forward pass; attention counts the full context_length x context_length square (CS336
    assignment 1, section 3.6).
    """
    matrices = model.n_layers * _block_matrices(model) + vocab_size * model.d_model
    attention = model.n_layers * 2 * model.context_length * model.d_model
    return 6 * (matrices + attention)


def training_bytes(model: ModelConfig, vocab_size: int) -> int:
    """Return the bytes of a checkpoint's tensors: fp32 weights and AdamW's two moments."""
    return 12 * parameter_count(model, vocab_size)


def _block_matrices(model: ModelConfig) -> int:
    return 4 * model.d_model**2 + 3 * model.d_model * model.ff_width
