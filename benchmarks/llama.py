"""The peer: Hugging Face's Llama, the same architecture, with our weights in it."""

import importlib.util

import torch
from torch import nn

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

    ours = model.config
    config = LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=ours.d_model,
        intermediate_size=ours.ff_width,
        num_hidden_layers=ours.n_layers,
        num_attention_heads=ours.n_heads,
        num_key_value_heads=ours.n_heads,
        head_dim=ours.head_dim,
        max_position_embeddings=ours.context_length,
        rms_norm_eps=ours.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": ours.rope_theta},
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation=attention,
        bos_token_id=0,
        eos_token_id=0,
    )
    peer = LlamaForCausalLM(config)
    peer.load_state_dict(_renamed(model))
    return peer.to(next(model.parameters()).device).train()


def _renamed(model: Transformer) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    named = {
        "model.embed_tokens.weight": state["embedding.weight"],
        "model.norm.weight": state["norm.weight"],
        "lm_head.weight": state["head.weight"],
    }
    for layer in range(model.config.n_layers):
        ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        query, key, value = state[ours + "attention.qkv.weight"].chunk(3)
        gate, up = state[ours + "feed_forward.w13.weight"].chunk(2)
        named |= {
            theirs + "self_attn.q_proj.weight": query,
            theirs + "self_attn.k_proj.weight": key,
            theirs + "self_attn.v_proj.weight": value,
            theirs + "self_attn.o_proj.weight": state[ours + "attention.out.weight"],
            theirs + "mlp.gate_proj.weight": gate,
            theirs + "mlp.up_proj.weight": up,
            theirs + "mlp.down_proj.weight": state[ours + "feed_forward.w2.weight"],
            theirs + "input_layernorm.weight": state[ours + "norm1.weight"],
            theirs + "post_attention_layernorm.weight": state[ours + "norm2.weight"],
        }
    return named
