"""Parameters, operations and bytes of a model, from its config alone (no torch needed)."""

from trainable.config.trial import ModelConfig, TrialConfig


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


def held_bytes(trial: TrialConfig, vocab_size: int) -> int:
    """Return the bytes that a forward pass leaves for the backward pass, at the least.

    They are inputs of matrix products, in the products' type. What a compiler could compute again
    without a product counts only where nothing is compiled, logits only where a chunk of them is
    not enough, the softmax only where it is written out (half of its square at most is needed).
    """
    model, train = trial.model, trial.train
    width, inner, length = model.d_model, model.ff_width, model.context_length
    rows = max(1, train.batch_size // train.grad_accumulation)
    values = 4 * width + 2 * inner  # queries, keys, values, their mixture; gate and value
    if train.compile == "never":
        values += 2 * width + 2 * inner  # both normalized inputs; the gate's SiLU, the product
    if train.attention in ("plain", "products"):
        values += model.n_heads * length // 2
    logits = vocab_size if train.attention == "sdpa" else 0
    size = 4 if train.precision == "fp32" else 2  # auto may become bf16
    return size * rows * length * (model.n_layers * values + logits)


def _block_matrices(model: ModelConfig) -> int:
    return 4 * model.d_model**2 + 3 * model.d_model * model.ff_width
