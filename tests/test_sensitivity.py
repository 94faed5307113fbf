"""Layer sensitivity: a planted fragile layer is found, and every effect can be made again by hand."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from noiserobust import Stream, UserError, evaluate, perturbed
from noiserobust.evaluation import Chips, Where, on_chips, sensitivity
from noiserobust.storage.rows import read_rows

SIGMA = "gaussian:0.1"
LAYERS = ["first.weight", "fragile.weight", "last.weight"]


def planted() -> nn.Module:
    """Three layers that hand three signals on; the second has an outlier of 20 in every row, at an input that is
    always 0: its noise is 20 times as large, and its function that of the others."""
    layers = OrderedDict(
        first=nn.Linear(6, 6, bias=False), fragile=nn.Linear(6, 6, bias=False), last=nn.Linear(6, 3, bias=False)
    )
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.copy_(torch.eye(6)[: len(layer.weight)])
        layers["first"].weight[5] = 0
        layers["fragile"].weight[:, 5] = 20
    return nn.Sequential(layers)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    y = torch.arange(90) % 3
    x = torch.zeros(90, 6)
    x[:, :3] = torch.eye(3)[y] + 0.2 * Stream(0, "x").normal((90, 3))
    return x, y


def line(effects: pd.DataFrame, layer: str, effect: str, metric: str = "accuracy") -> pd.Series:
    chosen = effects[(effects["layer"] == layer) & (effects["effect"] == effect) & (effects["metric"] == metric)]
    return chosen.iloc[0]


def test_the_fragile_layer_is_found(data: tuple[Tensor, Tensor]) -> None:
    result = sensitivity(planted(), data, SIGMA, draws=20)
    effects = result.summary()
    for effect in ("alone", "spared"):
        fragile = line(effects, "fragile.weight", effect)
        assert fragile["low"] > 10
        for other in ("first.weight", "last.weight"):
            assert line(effects, other, effect)["high"] < fragile["low"]
    assert (
        line(effects, "fragile.weight", "alone", "loss")["low"] > line(effects, "first.weight", "alone", "loss")["high"]
    )
    for rank in ("alone", "spared"):
        assert result.table(rank=rank).splitlines()[3].split()[0] == "fragile.weight"
    wide = line(result.summary(confidence=0.99), "fragile.weight", "alone")
    usual = line(effects, "fragile.weight", "alone")
    assert (wide["mean"], wide["confidence"]) == (usual["mean"], 0.99)
    assert wide["low"] < usual["low"] < usual["high"] < wide["high"]


def test_effects_by_hand(data: tuple[Tensor, Tensor]) -> None:
    """A layer's noise is the same whichever other layers are noisy: every effect is a difference on one draw."""
    model, (x, y) = planted(), data
    effects = sensitivity(model, data, SIGMA, draws=4, seed=3).summary()

    def accuracy(draw: int, **patterns: list[str]) -> float:
        with perturbed(model, SIGMA, seed=3, draw=draw, **patterns), torch.no_grad():
            return 100 * (model(x).argmax(1) == y).float().mean().item()

    with torch.no_grad():
        clean = 100 * (model(x).argmax(1) == y).float().mean().item()
    for name in LAYERS:
        alone = [clean - accuracy(draw, include=[name], exclude=["*"]) for draw in range(4)]
        spared = [accuracy(draw, exclude=[name]) - accuracy(draw) for draw in range(4)]
        assert line(effects, name, "alone")["mean"] == pytest.approx(sum(alone) / 4, abs=1e-4)
        assert line(effects, name, "spared")["mean"] == pytest.approx(sum(spared) / 4, abs=1e-4)
    whole = [clean - accuracy(draw) for draw in range(4)]
    assert line(effects, "all layers", "alone")["mean"] == pytest.approx(sum(whole) / 4, abs=1e-4)


def test_shares_beside_each_layer(data: tuple[Tensor, Tensor]) -> None:
    effects = sensitivity(planted(), data, SIGMA, draws=2).summary()
    alone = effects[(effects["effect"] == "alone") & (effects["metric"] == "accuracy")].set_index("layer")
    assert list(alone.loc[LAYERS, "weights"]) == [36, 36, 18]
    assert list(alone.loc[LAYERS, "macs_share"]) == [40.0, 40.0, 20.0]
    assert alone.loc["all layers", "macs_share"] == 100


def test_groups_count_as_one_layer(data: tuple[Tensor, Tensor]) -> None:
    single = sensitivity(planted(), data, SIGMA, draws=3).summary()
    grouped = sensitivity(planted(), data, SIGMA, draws=3, groups=["f*"]).summary()
    assert set(grouped["layer"]) == {"f*", "last.weight", "all layers"}
    # Two groups in all: sparing one is noise on the other only.
    assert line(grouped, "f*", "spared")["mean"] == pytest.approx(
        line(single, "all layers", "alone")["mean"] - line(single, "last.weight", "alone")["mean"]
    )


def test_several_models_have_an_interval_over_models(data: tuple[Tensor, Tensor]) -> None:
    result = sensitivity({"a": [planted(), planted()], "b": planted()}, data, SIGMA, draws=3)
    effects = result.summary()
    assert set(effects[effects["method"] == "a"]["interval_over"]) == {"models"}
    assert set(effects[effects["method"] == "b"]["interval_over"]) == {"draws"}
    assert str(result).count("fragile.weight") == 2


def test_nothing_is_computed_twice(
    data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.parquet"
    evaluate(planted(), data, SIGMA, draws=3, out=out)
    first = sensitivity(planted(), data, SIGMA, draws=3, out=out)
    stored = read_rows(out)
    # Clean is a single pass, and evaluate's own rows are those with noise on all layers.
    assert sorted(stored["analog"].unique())[0] == ""
    assert len(stored) == len(first.rows) == (1 + 1 + 2 * 3) * 3 * 2
    monkeypatch.setattr(on_chips.ModelOnChips, "score", lambda *_, **__: pytest.fail("computed again"))
    again = sensitivity(planted(), data, SIGMA, draws=3, out=out)
    pd.testing.assert_frame_equal(first.summary(), again.summary())


def test_what_a_person_includes_stays_noisy_elsewhere(data: tuple[Tensor, Tensor]) -> None:
    """An inclusion wins over exclusions: a layer is spared all the same."""
    included = sensitivity(planted(), data, SIGMA, draws=3, where=Where(include=["*.weight"])).summary()
    usual = sensitivity(planted(), data, SIGMA, draws=3).summary()
    pd.testing.assert_frame_equal(included, usual)


def test_converters_are_harm_too_and_clean_has_none(data: tuple[Tensor, Tensor]) -> None:
    model = planted()
    few_bits = Chips(converters="io:dac=2,adc=2")
    effects = sensitivity(model, data, "gaussian:0.0", draws=2, chips=few_bits).summary()
    clean = evaluate(model, data, "gaussian:0.0", draws=1).rows["value"].iloc[0]
    coarse = evaluate(model, data, "gaussian:0.0", draws=1, chips=few_bits).rows["value"].iloc[0]
    assert clean > coarse
    assert line(effects, "all layers", "alone")["mean"] == pytest.approx(clean - coarse)


def test_reads_and_times(data: tuple[Tensor, Tensor]) -> None:
    result = sensitivity(planted(), data, "pcm", 2, chips=Chips(times=["1d"], reads=2, compensation="global"))
    assert set(result.summary()["t"]) == {86400.0}
    assert "t 1 d" in result.table()


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"noise": "gaussian:0"}, "a noise with a strength"),
        ({"groups": ["none*"]}, "a group that matches"),
        ({"groups": ["f*", "fr*"]}, "each weight in one group"),
        ({"chips": Chips(compensation=["none", "global"])}, "one of compensation, got 2"),
        ({"chips": Chips(times=["1h", "1d"])}, "one of times, got 2"),
        ({"where": Where(exclude=["*"])}, "at least one analog weight"),
        ({"draws": 0}, "draws >= 1"),
    ],
)
def test_refusals(data: tuple[Tensor, Tensor], options: dict, fragment: str) -> None:
    with pytest.raises(UserError, match=fragment):
        sensitivity(planted(), data, **({"noise": SIGMA, "draws": 2} | options))


def test_copies_of_one_method_have_the_same_layers(data: tuple[Tensor, Tensor]) -> None:
    other = nn.Sequential(nn.Linear(6, 3))
    with pytest.raises(UserError, match="copies of one network"):
        sensitivity({"a": [planted(), other]}, data, SIGMA, draws=2)


def test_the_picture_shows_every_layer_in_rank_order(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    result = sensitivity({"a": planted(), "b": planted()}, data, SIGMA, draws=5)
    bars, shares, *_ = result.plot(tmp_path / "layers.png").axes
    assert (tmp_path / "layers.png").stat().st_size > 0
    assert bars.get_yticklabels()[0].get_text() == "fragile.weight"
    assert bars.yaxis_inverted()
    assert len(bars.patches) == len(shares.patches) == 6
    one = sensitivity(planted(), data, SIGMA, draws=1)  # no intervals to draw
    one.plot().draw_without_rendering()
    assert "fragile.weight" in one._repr_html_()
