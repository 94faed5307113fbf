"""Coverage in weights and in multiply-accumulates, and the one warning of a network that stays mostly digital."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import architectures
import pytest
import torch
from commands import TINY
from torch import Tensor, nn

from noiserobust import UserError, Where, coverage, evaluate, perturbed
from noiserobust.cli import main
from noiserobust.rng import Stream


class Kernel(nn.Module):
    """Stored as (inputs, outputs), of a type that nobody registered; ``scaled``: it computes with a function of it."""

    def __init__(self, inputs: int, outputs: int, scaled: bool = False) -> None:
        super().__init__()
        self.kernel, self.scaled = nn.Parameter(torch.randn(inputs, outputs)), scaled

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.kernel / self.kernel.std() if self.scaled else self.kernel)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = Kernel(6, 24), Kernel(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


def blocks() -> nn.Module:
    return nn.Sequential(Block(), Block(), nn.Linear(6, 3))


X = Stream(0, "x").normal((30, 6))
DATA = X, torch.arange(30) % 3


class TestCounts:
    def test_a_column_per_weight(self) -> None:
        found = coverage(blocks(), inputs=X[:2])
        counts = {row.name: row.macs for row in found.rows if not math.isnan(row.macs)}
        assert counts == {f"{n}.{part}.kernel": 144 for n in "01" for part in ("up", "down")} | {"2.weight": 18}
        assert (found.macs, found.noisy_macs) == (4 * 144 + 18, 18)
        assert "18 of 597 weights noisy (3.0 %, 1 tensors), 3.0 % of 594 multiply-accumulates" in found.summary
        line = next(line for line in str(found).splitlines() if line.startswith("0.up.kernel"))
        assert line.split()[3:6] == ["144", "24.2", "%"]

    def test_without_inputs_nothing_is_counted(self) -> None:
        found = coverage(blocks())
        assert math.isnan(found.macs)
        assert "multiply-accumulates" not in str(found)
        assert not found.warning

    def test_a_tied_heads_product_is_the_heads(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
                self.head.weight = self.embedding.weight

            def forward(self, tokens: Tensor) -> Tensor:
                return self.head(self.embedding(tokens))

        rows = coverage(Tied(), inputs=torch.tensor([[1, 2], [3, 4]])).rows
        assert [(row.name, row.noisy, row.macs) for row in rows[1:]] == [("head.weight", True, 72)]
        assert math.isnan(rows[0].macs)

    @pytest.mark.filterwarnings("default")
    @pytest.mark.parametrize(
        ("name", "share"), [("GPT2", 96.7), ("Mixtral", 96.8), ("GptOss", 98.1), ("Qwen2Moe", 96.6)]
    )
    def test_language_models_are_noisy_where_they_multiply(self, name: str, share: float) -> None:
        """docs/layers.md states these numbers."""
        found = coverage(architectures.language(name)[0], inputs={"input_ids": torch.arange(3, 10).view(1, 7)})
        assert 100 * found.noisy_macs / found.macs == pytest.approx(share, abs=0.05)
        assert found.products == {"activations": 2 * 2 * 7 * 7 * 32}
        assert not found.warning

    @pytest.mark.filterwarnings("default")
    def test_adapters_count_beside_their_base(self) -> None:
        peft = pytest.importorskip("peft")
        base, _ = architectures.language("GPT2")
        config = peft.LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
        found = coverage(peft.get_peft_model(base, config), inputs={"input_ids": torch.arange(3, 10).view(1, 7)})
        parts = [row for row in found.rows if "lora_" in row.name]
        assert [(row.noisy, row.macs) for row in parts] == [(True, 7 * 32 * 4), (True, 7 * 4 * 96)] * 2
        assert found.noisy_macs + found.products["activations"] == found.macs


class TestWarning:
    def test_it_names_the_patterns_that_help(self) -> None:
        text = coverage(blocks(), inputs=X[:1]).warning
        assert text.startswith("only 3.0 % of the multiply-accumulates are noisy; include '*.")
        patterns = text.split("include '")[1].split("' (")[0].split("' '")
        assert set(patterns) == {"*.up.kernel@1", "*.down.kernel@1"}
        helped = coverage(blocks(), include=patterns, inputs=X[:1])
        assert (helped.noisy_macs, helped.warning) == (helped.macs, "")

    def test_alike_names_of_other_layouts_are_named_one_by_one(self) -> None:
        class Out(Kernel):
            def forward(self, x: Tensor) -> Tensor:
                return x @ self.kernel.T

        model = nn.Sequential(Kernel(6, 20), Out(6, 20))
        assert "include '0.kernel@1' '1.kernel@0' " in coverage(model, inputs=X[:1]).warning

    def test_what_is_changed_before_it_computes_is_not_included(self) -> None:
        text = coverage(nn.Sequential(Kernel(6, 20, scaled=True), nn.Linear(20, 3)), inputs=X[:1]).warning
        assert "include" not in text
        assert "(0.kernel): register_layer(" in text

    def test_products_of_activations_are_named(self) -> None:
        layer = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)
        text = coverage(layer, inputs=torch.zeros(1, 200, 4)).warning
        assert "% of the multiply-accumulates are products of activations, and stay digital" in text

    def test_who_asked_for_it_is_not_warned(self) -> None:
        assert not coverage(nn.Sequential(nn.Linear(6, 20), nn.Linear(20, 3)), exclude=["0.*"], inputs=X[:1]).warning

    def test_an_evaluation_warns_once(self) -> None:
        with pytest.warns(UserWarning, match=r"only 3.0 % of the multiply-accumulates") as found:
            result = evaluate(blocks(), DATA, ["gaussian:0.1", "gaussian:0.2"], draws=2)
        assert len(found) == 1
        (seen,) = result.coverage.values()
        assert seen.macs == 594
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate(blocks(), DATA, draws=1, where=Where(include=["*.kernel@1"]))

    def test_counting_changes_no_draw(self) -> None:
        """A network that draws from the global generator in eval mode sees the numbers that it would have seen."""

        class Sampled(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) + torch.randn(3)

        model = nn.Sequential(nn.Linear(6, 3), Sampled(3, 3))
        torch.manual_seed(0)
        expected = torch.randn(3)
        torch.manual_seed(0)
        coverage(model, inputs=X[:1])
        assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(1, 1, 8, 8),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1)),
        {"a": torch.zeros(1)},
    ],
)
def test_inputs_that_the_network_does_not_take_are_one_line(inputs: object) -> None:
    with pytest.raises(UserError, match=r"expected a network that takes inputs .*, got Conv2d"):
        coverage(nn.Conv2d(3, 4, 3), inputs=inputs)


def test_patterns_that_can_make_nothing_noisy_are_refused() -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.LayerNorm(3))
    for pattern in ("0.bias", "*bias", "1.*"):
        with (
            pytest.raises(UserError, match="pattern that matches a matrix, got"),
            perturbed(model, "gaussian:0.1", include=[pattern]),
        ):
            pass
    with pytest.raises(UserError, match=r"pattern that matches a parameter, got '2\.\*'"):
        evaluate(model, DATA, draws=1, where=Where(include=["2.*"]))


def test_the_command_line_warns_in_one_line_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "own.py"
    source.write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Kernel(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.w = nn.Parameter(torch.randn(64, 40))\n\n"
        "    def forward(self, x):\n        return x.flatten(1) @ self.w\n\n\n"
        "def build(channels, classes):\n    return nn.Sequential(Kernel(), nn.Linear(40, classes))\n"
    )
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.syspath_prepend(tmp_path)
        warnings.simplefilter("default")
        main(["train", *TINY, "--model", "factory:own:build", "--out", str(tmp_path)])
        capsys.readouterr()
        given = ["--model", "factory:own:build", "--draws", "1", "--out", str(tmp_path / "rows.parquet")]
        main(["evaluate", str(tmp_path), *given])
        out, err = capsys.readouterr()
        (line,) = [line for line in err.splitlines() if "multiply-accumulates" in line]
        assert line.startswith(
            "noiserobust: warning: only 13.5 % of the multiply-accumulates are noisy; include '*.w@1'"
        )
        assert "13.5 % of 2,960 multiply-accumulates" in out
        main(["evaluate", str(tmp_path), *given, "--include", "*.w@1"])
        assert "multiply-accumulates are noisy" not in capsys.readouterr().err
