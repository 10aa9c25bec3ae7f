"""Our model in Llama's words: the same function, other names, fused matrices apart."""

from typing import Any

from torch import Tensor

from trainable.config.trial import ModelConfig
from trainable.model.transformer import Transformer


def llama_settings(config: ModelConfig, vocab_size: int, end_of_text: int | None) -> dict[str, Any]:
    """Return the settings of Hugging Face's LlamaConfig for a model of ours.

    Args:
        config: the size.
        vocab_size: number of token ids.
        end_of_text: id of the token between documents; None where the vocabulary has none.
    """
    return {
        "vocab_size": vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.ff_width,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        # A document begins after the end of the one before.
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


def llama_weights(model: Transformer) -> dict[str, Tensor]:
    """Return a copy of the weights under the names of LlamaForCausalLM.

    Rotary pairs are the same in both, so no row changes its place. A tied head is left out.
    """
    state = model.state_dict()
    named = {
        "model.embed_tokens.weight": state["embedding.weight"],
        "model.norm.weight": state["norm.weight"],
    }
    if not model.config.tie_embeddings:
        named["lm_head.weight"] = state["head.weight"]
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
    return {name: tensor.clone() for name, tensor in named.items()}
