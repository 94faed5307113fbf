"""Networks as their users have them, each against a loop written out: transformers and torchvision, tiny and random."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import noiserobust
from noiserobust.evaluation import sensitivity, sharpness
from noiserobust.rng import Stream

NOISE = "gaussian:0.1"
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


def whole(below: int, *shape: int, name: str = "ids") -> Tensor:
    return (Stream(3, name).uniform(shape) * below).long()


IDS = whole(40, 70, 9)
MASK = torch.ones_like(IDS)
MASK[:20, 6:] = 0


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    logging.disable(logging.NOTSET)


def values(model: nn.Module, data: Any, **options: Any) -> dict[str, float]:
    rows = noiserobust.evaluate(model, data, NOISE, draws=1, **options).rows
    return dict(zip(rows["metric"], rows["value"], strict=True))


@torch.no_grad()
def answers(model: nn.Module, **inputs: Any) -> Any:
    with noiserobust.perturbed(model, NOISE, draw=0):
        return model.eval()(**inputs)


def language_model(kind: str) -> nn.Module:
    import transformers as hf

    if kind == "gpt2":
        return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16))
    return hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_causal_language_models(kind: str) -> None:
    model = language_model(kind)
    labels = IDS.masked_fill(MASK == 0, -100)
    data = {"input_ids": IDS, "attention_mask": MASK, "labels": labels}
    assert values(model, data | {"labels": IDS}, task="tokens") == values(model, data, task="tokens")  # padding
    logits = answers(model, input_ids=IDS, attention_mask=MASK).logits[:, :-1]
    kept = labels[:, 1:] != -100
    loss = functional.cross_entropy(logits[kept], labels[:, 1:][kept]).item()
    expected = {
        "perplexity": math.exp(loss),
        "accuracy": 100 * (logits.argmax(2) == labels[:, 1:])[kept].float().mean().item(),
        "loss": loss,
    }
    assert values(model, data, task="tokens") == pytest.approx(expected, rel=1e-5)
    # The model's own loss is that of all tokens at once.
    assert answers(model, **data).loss.item() == pytest.approx(loss, rel=1e-5)
    assert values(model, {k: v for k, v in data.items() if k != "labels"}, task="tokens") == pytest.approx(expected)
    # Rows of several lengths, padded by a collate function or not at all.
    rows = [{"input_ids": ids[mask > 0].tolist()} for ids, mask in zip(IDS, MASK, strict=True)]

    def padded(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        filled = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]
        mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
        return {"input_ids": torch.tensor(filled), "attention_mask": torch.tensor(mask)}

    for given in (rows, DataLoader(rows, batch_size=6, collate_fn=padded)):  # type: ignore[arg-type]
        assert values(model, given, task="tokens") == pytest.approx(expected, rel=1e-4)
    if kind == "llama":
        effects = sensitivity(model, data, NOISE, draws=2, images=20, task="tokens").summary()
        assert {"perplexity", "loss"} == set(effects["metric"])
        measured = sharpness(model, data, ["loss", "gradient_norm"], task="tokens").rows
        clean = model(**data).loss.item()
        assert measured["value"].iloc[0] == pytest.approx(clean, rel=1e-5)


def test_an_encoder_decoder_reads_its_labels() -> None:
    import transformers as hf

    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    model = hf.T5ForConditionalGeneration(hf.T5Config(**sizes, decoder_start_token_id=0))
    labels = whole(40, 70, 5, name="labels")
    labels[:9, 3:] = -100
    found = values(model, {"input_ids": IDS, "labels": labels}, task="tokens")
    assert found["loss"] == pytest.approx(answers(model, input_ids=IDS, labels=labels).loss.item(), rel=1e-5)


def test_bert_classifies_texts_and_tokens() -> None:
    import datasets
    import transformers as hf

    model, labels = hf.BertForSequenceClassification(hf.BertConfig(**SIZES, num_labels=3)), whole(3, 70, name="y")
    logits = answers(model, input_ids=IDS, attention_mask=MASK).logits
    expected = {
        "accuracy": 100 * (logits.argmax(1) == labels).float().mean().item(),
        "loss": functional.cross_entropy(logits, labels).item(),
    }
    columns = {"input_ids": IDS, "attention_mask": MASK}
    rows = datasets.Dataset.from_dict(
        {**{k: v.tolist() for k, v in columns.items()}, "label": labels.tolist(), "text": ["a"] * 70}
    )
    for data in (
        (hf.BatchEncoding(columns), labels),
        {**columns, "labels": labels},
        rows,
        rows.with_format("torch"),
        rows.to_iterable_dataset(),
        DataLoader(rows.with_format("torch").remove_columns("text"), batch_size=8, shuffle=True),
    ):
        assert values(model, data) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(noiserobust.UserError, match=r"expected one data set, got several \(train, test\); name one"):
        values(model, datasets.DatasetDict(train=rows, test=rows))
    tagger, tags = hf.BertForTokenClassification(hf.BertConfig(**SIZES, num_labels=4)), whole(4, 70, 9, name="tags")
    tags[:, ::2] = -100
    logits = answers(tagger, input_ids=IDS, attention_mask=MASK).logits
    found = values(tagger, {**columns, "labels": tags}, task="tokens:accuracy")
    assert next(iter(found)) == "accuracy"
    assert found["loss"] == pytest.approx(
        functional.cross_entropy(logits.flatten(0, 1), tags.flatten()).item(), rel=1e-5
    )


def test_torchvision_segments_and_detects() -> None:
    from torchvision.models import detection, segmentation
    from torchvision.ops import MultiScaleRoIAlign

    x = Stream(4).uniform((6, 3, 32, 32))
    model = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    labels = whole(4, 6, 32, 32, name="pixels")
    labels[0] = 255
    logits = answers(model, input=x)["out"]
    kept = labels != 255
    found = values(model, (x, labels), task="segmentation")
    assert found["accuracy"] == pytest.approx(100 * (logits.argmax(1) == labels)[kept].float().mean().item())
    assert found["loss"] == pytest.approx(functional.cross_entropy(logits, labels, ignore_index=255).item(), rel=1e-4)

    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU())
    backbone.out_channels = 8
    anchors = detection.anchor_utils.AnchorGenerator(sizes=((8,),), aspect_ratios=((1.0,),))
    pool = MultiScaleRoIAlign(featmap_names=["0"], output_size=3, sampling_ratio=1)
    detector = detection.FasterRCNN(
        backbone, 3, rpn_anchor_generator=anchors, box_roi_pool=pool, min_size=32, max_size=32
    ).eval()

    def boxes(model: nn.Module) -> dict[str, Any]:
        return {
            "boxes": float(sum(len(one["boxes"]) for one in model(list(x)))),
            "score": model(list(x))[0]["scores"].max(),
        }

    found = values(detector, boxes)
    detections = answers(detector, images=list(x))
    assert found["boxes"] == sum(len(one["boxes"]) for one in detections)
    assert found["score"] == pytest.approx(detections[0]["scores"].max().item(), rel=1e-5)
