"""The table of docs/language_model.md: RWP, and LoRA on a frozen noisy base, for a small Llama on spelled-out sums.

``python experiments/language_model.py OUT.parquet`` trains three copies of each method and evaluates them: minutes on
one core. Needs transformers and peft.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch
import tyro
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from noiserobust import Stream, evaluate, perturbed
from noiserobust.data import load, training_batches
from noiserobust.evaluation import Evaluation, Where
from noiserobust.training import Engine, Method, Progress

TRAINING_DRAWS = 1000
"""Seed of the noise in training: those that are reported have seed 0."""
ADAPTERS = ("*lora_*",)
NOISY = "lora, noisy base"
SIZES = {"vocab_size": 20, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}


def train(model: nn.Module, rule: str, epochs: int, seed: int, chips: str | None = None, lr: float = 3e-3) -> None:
    """AdamW on the training text; with ``chips`` every step finds the base on a chip of its own."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr, weight_decay=0.0)
    engine = Engine(model, optimizer, task="tokens", clip_norm=1.0, seed=seed)
    batches = training_batches(
        load("sums:tokens").train, 32, device=torch.device("cpu"), stream=Stream(seed, "train", epochs)
    )
    method, steps, step = Method.parse(rule), epochs * len(batches), 0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            noise = {"seed": TRAINING_DRAWS, "replicate": seed, "draw": step, "exclude": ADAPTERS}
            with perturbed(model, chips, **noise) if chips else nullcontext():
                method.step(engine, batch, Progress(step, steps, epoch, epochs))
            schedule.step()
            step += 1


def adapted(base: nn.Module, seed: int) -> nn.Module:
    """``base`` frozen, with LoRA of rank 4 at every Linear but the output layer."""
    torch.manual_seed(seed)
    return get_peft_model(copy.deepcopy(base), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))


def main(out: tyro.conf.Positional[Path]) -> None:
    """``out``: the rows, a .parquet file."""
    models: dict[str, list[nn.Module]] = {}
    for seed in range(3):
        torch.manual_seed(seed)
        base = LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, bos_token_id=0, eos_token_id=0))
        train(base, "plain", 60, seed)
        plain, rwp = copy.deepcopy(base), copy.deepcopy(base)
        train(plain, "plain", 30, seed, lr=1e-3)
        train(rwp, "rwp:gaussian(0.1)", 30, seed, lr=1e-3)
        clean, noisy = adapted(base, seed), adapted(base, seed)
        train(clean, "plain", 30, seed)
        train(noisy, "plain", 30, seed, chips="gaussian:0.1")
        kinds = {"base": base, "plain": plain, "rwp": rwp, "lora, clean base": clean, NOISY: noisy}
        for name, model in kinds.items():
            models.setdefault(name, []).append(model)
    noises = ["gaussian:0", "gaussian:0.05", "gaussian:0.1", "gaussian:0.2", "pcm"]
    data, rows = load("sums:tokens"), []
    for digital in ((), ADAPTERS):
        group = {name: copies for name, copies in models.items() if name.startswith("lora") == bool(digital)}
        rows.append(evaluate(group, data, noises, task="tokens", where=Where(exclude=digital), out=out).rows)
    result = Evaluation(pd.concat(rows))
    print(result.table(), result.summary().query("metric == 'perplexity'").to_string(), sep="\n\n")
    for one, other in (("plain", "base"), ("rwp", "plain"), ("lora, clean base", "base"), (NOISY, "lora, clean base")):
        print(one, "-", other, result.paired(one, other)[["noise", "mean", "low", "high"]], sep="\n")


if __name__ == "__main__":
    from start import start

    start(main)
