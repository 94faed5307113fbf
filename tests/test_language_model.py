"""A transformer on letters goes through the same functions as a network on images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noiserobust import Stream, UserError, coverage, evaluate, perturbed
from noiserobust.cli import main
from noiserobust.data import load
from noiserobust.data.sums import CONTEXT, spelled
from noiserobust.models import Transformer
from noiserobust.rng import seeded
from noiserobust.storage.rows import read_rows


def text_of(numbers: torch.Tensor, classes: tuple[str, ...]) -> str:
    return "".join(classes[number] for number in numbers.tolist())


class TestText:
    def test_numbers_are_spelled(self) -> None:
        assert [spelled(n) for n in (0, 13, 20, 21, 30, 38)] == [
            *("zero", "thirteen", "twenty", "twenty one", "thirty", "thirty eight")
        ]

    def test_it_is_made_of_right_sums(self) -> None:
        data = load("sums").test
        whole = text_of(data.images[0], data.classes) + text_of(data.labels, data.classes)
        words = {spelled(n): n for n in range(39)}
        sentences = [one.strip() for one in whole.split(".")[:-1]]
        assert len(sentences) > 50
        for sentence in sentences:
            operands, _, total = sentence.partition(" is ")
            first, _, second = operands.partition(" plus ")
            assert words[first] + words[second] == words[total]

    def test_windows_are_followed_by_their_letter(self) -> None:
        data = load("sums").train
        assert data.images.shape[1] == CONTEXT
        assert torch.equal(data.images[1:, -1], data.labels[:-1])
        assert load("sums").train.fingerprint == data.fingerprint


def test_the_tied_output_layer_is_noisy_and_the_look_up_is_not() -> None:
    with seeded(Stream(0, "net")):
        model = Transformer(width=16, layers=1, heads=2).build(CONTEXT, 20).eval()
    found = {row.name: row for row in coverage(model).rows}
    assert found["head.weight"].noisy
    assert not found["embedding.weight"].noisy
    assert found["blocks.layers.0.self_attn.in_proj_weight"].noisy
    tokens = torch.arange(CONTEXT)[None] % 20
    with torch.no_grad():
        clean, looked_up = model(tokens), model.embedding(tokens)
        with perturbed(model, "gaussian:0.1", exclude=["blocks.*"]):
            assert torch.equal(model.embedding(tokens), looked_up)
            assert not torch.equal(model(tokens), clean)
        assert torch.equal(model(tokens), clean)


def test_it_is_trained_and_evaluated_from_the_command_line(tmp_path: Path) -> None:
    tiny = ["--model", "transformer:16,layers=1,heads=2", "--epochs", "1", "--batch-size", "500", "--select-draws", "1"]
    main(["train", "--data", "sums", *tiny, "--method", "rwp:gaussian(0.1)", "--out", str(tmp_path / "runs")])
    command = ["evaluate", str(tmp_path / "runs"), "--noise", "gaussian:0.1", "--draws", "2", "--images", "200"]
    main([*command, "--metrics", "perplexity", "--out", str(tmp_path / "rows.parquet")])
    rows = read_rows(tmp_path / "rows.parquet").set_index(["metric", "draw"])["value"]
    for draw in range(2):
        assert rows["perplexity", draw] == pytest.approx(torch.tensor(rows["loss", draw]).exp().item(), rel=1e-5)
    assert rows["perplexity", 0] < 20  # better than guessing among the letters


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ({"width": 10, "heads": 4}, "expected a width divisible by the heads, got width 10, 4 heads, 2 layers"),
        ({"layers": 0}, "0 layers"),
        ({"dropout": 1.0}, "expected dropout in [0, 1), got 1.0"),
    ],
)
def test_refusals(text: dict[str, int], fragment: str) -> None:
    with pytest.raises(UserError) as caught:
        Transformer(**text)  # type: ignore[arg-type]
    assert fragment in str(caught.value)


def test_any_noise_will_do(tmp_path: Path) -> None:
    data = load("sums").test.sample(50, Stream(0, "few"))
    with seeded(Stream(0, "net")):
        model = Transformer(width=16, layers=1, heads=2).build(CONTEXT, len(data.classes))
    rows = evaluate(model, data, ["gaussian:0.1", "laplace:0.1,reference=tile"], draws=1, metrics=["perplexity"]).rows
    assert len(rows) == 6
