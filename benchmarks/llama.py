"""The peer: Hugging Face's Llama, the same architecture, with our weights in it."""

import importlib.util

from torch import nn

from trainable.checkpoint.llama import llama_settings, llama_weights
from trainable.model.transformer import Transformer


def peer_installed() -> bool:
    """Say whether transformers is there."""
    return importlib.util.find_spec("transformers") is not None


def llama(model: Transformer, attention: str) -> nn.Module:
    """Return the peer with a copy of the weights of `model`, in fp32 and in training mode.

    Args:
        model: ours; its rotary pairs are Llama's, its fused matrices are split.
        attention: the peer's attn_implementation, "sdpa" or "eager".
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **llama_settings(model.config, model.vocab_size, end_of_text=0),
        use_cache=False,
        attn_implementation=attention,
    )
    peer = LlamaForCausalLM(config)
    peer.load_state_dict(llama_weights(model))
    return peer.to(next(model.parameters()).device).train()
