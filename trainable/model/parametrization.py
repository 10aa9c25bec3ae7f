"""How initial weights and learning rates go with a model's width: standard, or muP.

With the maximal update parametrization (Yang et al. 2022, Tensor Programs V, table 3, for Adam)
activations and their changes in a step stay as large at any width, so that a learning rate that is
best for a narrow model is nearly so for a wide one. Relative to the base width, where the two
parametrizations are the same:

| weights | initial deviation | learning rate |
|---|---|---|
| embedding, gains | as it is | as it is |
| matrices of the blocks | (fan-in ratio)^-1/2, as the standard has it | / fan-in ratio |
| head | / fan-in ratio | / fan-in ratio |

A small head and its small rate are what a multiplier on the logits would do. Attention needs no
other scale: heads have the same width in all sizes. AdamW's decay of a step is rate x decay; the
decay grows by what the rate shrinks, so that it, too, stays as it is (Wang and Aitchison 2024).
"""

from trainable.config.trial import ModelConfig


def fan_in_ratio(model: ModelConfig, layer: str) -> float:
    """Return a matrix's inputs over those that it has at the base width; 1 where nothing changes.

    Args:
        model: the size.
        layer: of the matrix: embedding, qkv, out, w13, w2 or head.
    """
    if model.parametrization == "standard" or layer == "embedding":
        return 1.0
    if layer == "w2":
        base = model.model_copy(update={"d_model": model.base_width})
        return model.ff_width / base.ff_width
    return model.d_model / model.base_width
