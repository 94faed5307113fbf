"""Small networks of transformers, timm and torchvision, with a call of each: what the tracer looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Built = tuple[nn.Module, Callable[[], object]]

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
QUIET = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}

LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT2": ("LMHeadModel", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}),
    "Llama": ("ForCausalLM", GROUPED),
    "Mistral": ("ForCausalLM", GROUPED),
    "Mixtral": ("ForCausalLM", GROUPED | {"num_local_experts": 4}),
    "Qwen2": ("ForCausalLM", GROUPED),
    "Qwen2Moe": ("ForCausalLM", GROUPED | EXPERTS | {"shared_expert_intermediate_size": 40}),
    "Qwen3": ("ForCausalLM", GROUPED | {"head_dim": 8}),
    "Qwen3Moe": ("ForCausalLM", GROUPED | EXPERTS | {"head_dim": 8}),
    "GptOss": ("ForCausalLM", GROUPED | {"head_dim": 8, "num_local_experts": 4}),
    "Olmoe": ("ForCausalLM", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    "Gemma2": ("ForCausalLM", GROUPED | {"head_dim": 8}),
    "Phi3": ("ForCausalLM", GROUPED),
    "GPTNeoX": ("ForCausalLM", SIZES),
    "OPT": ("ForCausalLM", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "Bloom": ("ForCausalLM", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "Falcon": ("ForCausalLM", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "Bert": ("ForMaskedLM", SIZES),
    "DistilBert": ("ForMaskedLM", {"vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}),
    "Albert": ("ForMaskedLM", {**SIZES, "embedding_size": 16}),
    "DebertaV2": ("ForMaskedLM", SIZES),
    "Mamba": ("ForCausalLM", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "XLNet": ("LMHeadModel", {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
    "DeepseekV3": (
        "ForCausalLM",
        SIZES
        | {"num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
        | {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
        | {"moe_intermediate_size": 24, "first_k_dense_replace": 1},
    ),
    "ConvBert": ("ForMaskedLM", {**SIZES, "embedding_size": 16, "num_groups": 2}),
    "JetMoe": (
        "ForCausalLM",
        {**SIZES, "num_key_value_heads": 2, "kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "Llama4Text": (
        "Llama4ForCausalLM",
        GROUPED | {"head_dim": 8, "num_local_experts": 4, "intermediate_size_mlp": 40, "interleave_moe_layer_step": 1},
    ),
    "Funnel": ("ForMaskedLM", {"vocab_size": 64, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48}),
    "RecurrentGemma": ("ForCausalLM", {**SIZES, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8}),
    "Dbrx": (
        "ForCausalLM",
        {"vocab_size": 64, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 32}
        | {
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
            "ffn_config": {"ffn_hidden_size": 48, "hidden_size": 32, "moe_num_experts": 4},
        },
    ),
}
TORCHVISION = (
    *("resnet18", "resnext50_32x4d", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"),
    *("swin_t", "shufflenet_v2_x0_5", "vit_b_32"),
)
TIMM = ("convnext_atto", "mixer_s32_224", "resnetv2_50", "levit_128s", "tf_efficientnet_b0", "mobilevit_xxs")


def language(name: str) -> Built:
    import transformers

    kind, settings = LANGUAGE[name]
    config = getattr(transformers, f"{name}Config")(**(QUIET | settings))
    torch.manual_seed(0)
    kind = kind if hasattr(transformers, kind) else f"{name}{kind}"
    network = getattr(transformers, kind)(config).eval()
    tokens = torch.arange(3, 17).view(2, 7)
    return network, lambda: network(tokens)


def torchvision(name: str) -> Built:
    import torchvision.models

    network = getattr(torchvision.models, name)(weights=None).eval()
    images = torch.randn(1, 3, 224 if name.startswith("vit") else 64, 224 if name.startswith("vit") else 64)
    return network, lambda: network(images)


def timm(name: str, size: int = 224) -> Built:
    import timm as library

    network = library.create_model(name, pretrained=False).eval()
    images = torch.randn(1, 3, size, size)
    return network, lambda: network(images)
