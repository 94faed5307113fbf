"""Rows of an evaluation: each can be made again by hand, none is made twice, and the models stay as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import noiserobust
from noiserobust import Stream, UserError, evaluate, perturbed
from noiserobust.data import Dataset
from noiserobust.evaluation import Compute, Where
from noiserobust.evaluation.settings import grouped
from noiserobust.models import DigitsNet
from noiserobust.rng import seeded
from noiserobust.storage.checkpoints import save_checkpoint
from noiserobust.storage.identity import network_digest
from noiserobust.storage.rows import read_rows

NOISES = ["gaussian:0.3", "laplace:0.2"]


def net(seed: int = 0) -> nn.Module:
    with seeded(Stream(seed, "net")):
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return Stream(0, "x").normal((60, 1, 2, 2)), torch.arange(60) % 3


def values(rows: pd.DataFrame, metric: str = "accuracy", **where: object) -> list[float]:
    chosen = rows[rows["metric"] == metric]
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    return list(chosen["value"])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the evaluations of a model on the whole data, whatever the model."""
    counts = [0]
    score = noiserobust.evaluation.on_chips.score

    def counting(*arguments: object, **options: object) -> object:
        counts[0] += 1
        return score(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(noiserobust.evaluation.on_chips, "score", counting)
    return counts


class TestRows:
    def test_one_row_per_model_noise_draw_and_metric(self, data: tuple[Tensor, Tensor]) -> None:
        rows = evaluate({"a": [net(0), net(1)], "b": net(2)}, data, NOISES, draws=4, seed=5).rows
        assert len(rows) == 3 * 2 * 4 * 2
        assert not rows.duplicated(["model", "noise", "draw", "metric"]).any()
        assert set(rows["method"]) == {"a", "b"}
        assert (rows["seed"] == 5).all()
        assert (rows["images"] == 60).all()
        versions = rows.groupby("noise")["semantics"].unique().map(list)
        assert versions.to_dict() == {"gaussian:0.3": [2], "laplace:0.2": [3]}
        assert (rows["noisy_weights"] == 4 * 8 + 8 * 3).all()
        assert {"torch", "commit", "device", "precision", "weights", "data"} <= set(rows)

    def test_by_hand(self, data: tuple[Tensor, Tensor]) -> None:
        models, (x, y) = [net(0), net(1)], data
        rows = evaluate(models, data, NOISES, draws=3, seed=5).rows
        for replicate, model in enumerate(models):
            model.eval()
            for noise in NOISES:
                for draw in range(3):
                    with perturbed(model, noise, seed=5, replicate=replicate, draw=draw), torch.no_grad():
                        logits = model(x)
                    accuracy = 100 * (logits.argmax(1) == y).float().mean().item()
                    loss = nn.functional.cross_entropy(logits, y).item()
                    where = {"replicate": replicate, "noise": noise, "draw": draw}
                    assert values(rows, **where) == [pytest.approx(accuracy)]
                    assert values(rows, "loss", **where) == [pytest.approx(loss)]

    def test_draws_depend_on_nothing_else(self, data: tuple[Tensor, Tensor]) -> None:
        few = evaluate(net(), data, NOISES, draws=2).rows
        many = evaluate([net(), net(1)], data, NOISES[::-1], draws=5, compute=Compute(batch_size=7)).rows
        for noise in NOISES:
            assert values(few, noise=noise) == values(many, noise=noise, replicate=0)[:2]

    def test_replicates_differ_and_methods_share(self, data: tuple[Tensor, Tensor]) -> None:
        rows = evaluate({"a": [net(), net()], "b": [net(), net()]}, data, "gaussian:0.5", draws=6).rows
        a0, a1 = (values(rows, "loss", method="a", replicate=r) for r in (0, 1))
        assert a0 == values(rows, "loss", method="b", replicate=0)
        assert not set(a0) & set(a1)

    def test_precision_is_recorded_and_used(self, data: tuple[Tensor, Tensor]) -> None:
        full, half = (
            evaluate(net(), data, "gaussian:0.3", draws=2, compute=Compute(precision=p)).rows for p in ("fp32", "bf16")
        )
        assert set(half["precision"]) == {"bf16"}
        assert values(half, "loss") != values(full, "loss")
        assert values(half, "loss") == pytest.approx(values(full, "loss"), rel=0.02)


class TestModelsStayAsTheyWere:
    def test_weights_and_modes(self, data: tuple[Tensor, Tensor]) -> None:
        model = net().train()
        model[3].eval()
        before, modes = network_digest(model), [m.training for m in model.modules()]
        evaluate(model, data, NOISES, draws=2)
        assert network_digest(model) == before
        assert [m.training for m in model.modules()] == modes

    @pytest.mark.parametrize("channels_last", [True, False])
    def test_and_the_memory_they_lie_in(self, channels_last: bool) -> None:
        with seeded(Stream(0, "net")):
            model = DigitsNet(width=4).build(1, 3)
        places = [(p.data_ptr(), p.stride()) for p in model.state_dict().values()]
        evaluate(
            model,
            (torch.ones(3, 1, 4, 4), torch.arange(3)),
            NOISES,
            draws=1,
            compute=Compute(channels_last=channels_last),
        )
        assert [(p.data_ptr(), p.stride()) for p in model.state_dict().values()] == places
        assert all(p.grad is None and p.requires_grad for p in model.parameters())

    def test_also_after_an_exception(self, data: tuple[Tensor, Tensor]) -> None:
        model = net().train()
        before = network_digest(model)
        model.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate(model, data, NOISES, draws=2)
        assert network_digest(model) == before
        assert model.training

    def test_coverage_comes_with_the_result(self, data: tuple[Tensor, Tensor]) -> None:
        result = evaluate({"a": net()}, data, NOISES, draws=1, where=Where(exclude=["4.*"]))
        (found,) = result.coverage.values()
        assert [row.name for row in found.rows if row.noisy] == ["1.weight"]
        assert set(result.rows["analog"]) == {"-4.*"}
        with pytest.raises(UserError, match="at least one analog weight"):
            evaluate(net(), data, NOISES, where=Where(exclude=["*"]))


class TestNothingTwice:
    def test_no_noise_is_computed_once(self, data: tuple[Tensor, Tensor], counted: list[int]) -> None:
        rows = evaluate(net(), data, ["gaussian:0", "gaussian:0.1"], draws=5).rows
        assert counted == [1 + 5]
        assert len(set(values(rows, noise="gaussian:0.0"))) == 1
        assert len(values(rows, noise="gaussian:0.0")) == 5

    def test_a_file_of_rows_is_gone_on_with(
        self, data: tuple[Tensor, Tensor], counted: list[int], tmp_path: Path
    ) -> None:
        out = tmp_path / "rows.parquet"
        first = evaluate(net(), data, NOISES[0], draws=3, out=out).rows
        second = evaluate(net(), data, NOISES, draws=4, out=out).rows
        assert counted == [2 * 4]
        assert values(second, noise=NOISES[0])[:3] == values(first)
        pd.testing.assert_frame_equal(read_rows(out), second, check_like=True)
        # Another seed, other weights, another precision: all new, and what was there stays.
        evaluate(net(), data, NOISES[0], draws=1, seed=1, out=out)
        evaluate(net(1), data, NOISES[0], draws=1, out=out)
        evaluate(net(), data, NOISES[0], draws=1, out=out, compute=Compute(precision="bf16"))
        evaluate(net(), data, NOISES[0], draws=1, out=out, where=Where(exclude=["4.*"]))
        assert counted == [2 * 4 + 4]
        assert len(read_rows(out)) == len(second) + 4 * 2

    def test_data_normalised_otherwise_are_other_data(self, counted: list[int], tmp_path: Path) -> None:
        pixels, labels = Stream(0, "x").normal((60, 1, 2, 2)), torch.arange(60) % 3
        out = tmp_path / "rows.parquet"
        here, there = (
            evaluate(net(), Dataset(pixels, labels, mean, (1.0,)), NOISES[0], draws=2, out=out).rows
            for mean in ((0.0,), (5.0,))
        )
        assert counted == [2 + 2]
        assert values(here, "loss") != values(there, "loss")
        assert len(read_rows(out)) == 2 * 2 * 2

    def test_another_label_for_the_same_network_costs_nothing_and_replaces_nothing(
        self, data: tuple[Tensor, Tensor], counted: list[int], tmp_path: Path
    ) -> None:
        out = tmp_path / "rows.parquet"
        for label in ("a", "b", "a"):
            evaluate({label: net()}, data, NOISES[0], draws=2, out=out)
        assert counted == [2]
        rows = read_rows(out)
        assert len(rows) == 2 * 2 * 2
        assert values(rows, method="a") == values(rows, method="b")

    def test_an_interrupted_evaluation_keeps_what_it_had(
        self, data: tuple[Tensor, Tensor], counted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, whole = tmp_path / "rows.parquet", evaluate(net(), data, NOISES, draws=4).rows
        counting = noiserobust.evaluation.on_chips.score

        def interrupted(*arguments: object, **options: object) -> object:
            if counted[0] == 8 + 5:
                raise KeyboardInterrupt
            return counting(*arguments, **options)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(noiserobust.evaluation.on_chips, "score", interrupted)
            with pytest.raises(KeyboardInterrupt):
                evaluate(net(), data, NOISES, draws=4, out=out)
        assert len(read_rows(out)) == 2 * 5
        again = evaluate(net(), data, NOISES, draws=4, out=out).rows
        assert counted == [8 + 8]
        pd.testing.assert_frame_equal(again, whole)


class TestData:
    def test_named_data_are_normalised_as_in_training_and_tensors_are_taken_as_they_are(self, tmp_path: Path) -> None:
        pixels = (Stream(0, "pixels").uniform((30, 1, 8, 8)) * 255).byte()
        labels = torch.arange(30) % 10
        with seeded(Stream(0, "net")):
            model = DigitsNet(width=4).build(1, 10).eval()
        about = {
            "model": "digits:4",
            "channels": 1,
            "classes": [str(i) for i in range(10)],
            "mean": [0.3],
            "std": [0.2],
        }
        path = save_checkpoint(tmp_path / "a.safetensors", model.state_dict(), about)

        def loss(x: Tensor) -> float:
            with torch.no_grad():
                return nn.functional.cross_entropy(model(x), labels).item()

        classes = tuple(str(i) for i in range(10))
        named = evaluate(path, Dataset(pixels, labels, (0.9,), (0.1,), classes), "gaussian:0", draws=1).rows
        assert values(named, "loss") == [pytest.approx(loss((pixels / 255 - 0.3) / 0.2), rel=1e-5)]
        given = evaluate(path, (pixels / 255, labels), "gaussian:0", draws=1).rows
        assert values(given, "loss") == [pytest.approx(loss(pixels / 255), rel=1e-5)]

    def test_a_sample_of_the_images_is_stratified_and_the_same_for_all(self, data: tuple[Tensor, Tensor]) -> None:
        rows = evaluate([net(0), net(1)], data, "gaussian:0.1", draws=1, images=30).rows
        assert (rows["images"] == 30).all()
        assert rows["data"].nunique() == 1
        # A network that always says 2 is right about the share of that class, here of images sorted by class.
        always = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        always[1].weight.data.zero_()
        always[1].bias.data = torch.tensor([0.0, 0.0, 1.0])
        sorted_by_class = (data[0], data[1].sort().values)
        shares = evaluate(always, sorted_by_class, "gaussian:0.1", draws=1, images=30).rows
        assert values(shares) == [pytest.approx(100 / 3)]
        assert set(rows["data"]) != set(evaluate(net(), data, "gaussian:0.1", draws=1).rows["data"])


def share_of_zero(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == 0).float().mean().item()


class TestMetrics:
    def test_functions_and_names(self, data: tuple[Tensor, Tensor]) -> None:
        rows = evaluate(net(), data, "gaussian:0.3", draws=2, metrics={"zeros": share_of_zero}).rows
        named = evaluate(
            net(), data, "gaussian:0.3", draws=2, metrics=["perplexity", "test_evaluate:share_of_zero"]
        ).rows
        assert values(rows, "zeros") == values(named, "test_evaluate:share_of_zero")
        assert values(named, "perplexity") == pytest.approx(np.exp(values(rows, "loss")), rel=1e-5)
        model = net().eval()
        with perturbed(model, "gaussian:0.3", draw=1), torch.no_grad():
            assert values(rows, "zeros", draw=1) == [pytest.approx(share_of_zero(model(data[0]), data[1]))]

    def test_a_file_without_the_metric_is_brought_up_to_date(
        self, data: tuple[Tensor, Tensor], tmp_path: Path, counted: list[int]
    ) -> None:
        out = tmp_path / "rows.parquet"
        evaluate(net(), data, "gaussian:0.3", draws=2, out=out)
        evaluate(net(), data, "gaussian:0.3", draws=2, out=out, metrics=["perplexity"])
        evaluate(net(), data, "gaussian:0.3", draws=2, out=out, metrics=["perplexity"])
        assert counted[0] == 4
        assert len(read_rows(out)) == 6

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("f2", r"expected a metric \(perplexity, top5\) or package.module:function"),
            ("no_such_module:f", r"expected a metric \(perplexity, top5\) or package.module:function"),
            ("math:nothing", "math:nothing: expected code that can be imported, got AttributeError"),
        ],
    )
    def test_unknown_ones_are_refused(self, name: str, message: str, data: tuple[Tensor, Tensor]) -> None:
        with pytest.raises(UserError, match=message):
            evaluate(net(), data, "gaussian:0.3", metrics=[name])


@pytest.mark.parametrize(
    ("models", "options", "fragment"),
    [
        ([], {}, "expected at least one model, got none"),
        ({"a": [net()], "b": []}, {"noises": []}, "expected at least one noise, got none"),
        (net(), {"noises": "gauss:1"}, "got 'gauss:1'"),
        (net(), {"noises": "gaussian:-1"}, "expected a finite sigma >= 0, got -1"),
        (net(), {"draws": 0}, "expected draws >= 1, got 0"),
        (net(), {"precision": "int8"}, "expected fp32, bf16 or fp16 as precision, got str 'int8'"),
        (net(), {"images": 61}, "expected a sample of 1 to 60 images"),
        (net(), {"device": "abacus"}, "expected a device that is there, such as cpu or cuda, got 'abacus'"),
        (net(), {"batch_size": 0}, "expected a batch size of 1 or more, got 0"),
        (net(), {"data": (torch.zeros(0, 1, 2, 2), torch.zeros(0).long())}, "none of them 0"),
        (net(), {"data": 5}, "expected a Dataset, a tuple (x, y), a torch dataset or a DataLoader, got int"),
        (
            net(),
            {"data": "no-such-folder"},
            "imagenet, subset, sums, svhn, text or the path of an image folder",
        ),
        ("no-such.safetensors", {}, "there is none"),
    ],
)
def test_refusals(models: object, options: dict[str, object], fragment: str, data: tuple[Tensor, Tensor]) -> None:
    arguments = {"data": data, "noises": "gaussian:0.1"} | options
    with pytest.raises(UserError) as caught:
        evaluate(models, **grouped(arguments))
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_networks_in_one_place_are_refused(tmp_path: Path, data: tuple[Tensor, Tensor]) -> None:
    about = {"model": "digits:4", "channels": 1, "classes": ["a", "b", "c"], "label": "plain", "seed": 0}
    paths = [
        save_checkpoint(tmp_path / f"{name}.safetensors", DigitsNet(width=4).build(1, 3).state_dict(), about)
        for name in "ab"
    ]
    with pytest.raises(UserError, match=r"one model per method and replicate, got .*a.safetensors and .*b.safetensors"):
        evaluate(paths, data, "gaussian:0.1")
    x, y = data
    images = nn.functional.pad(x, (3, 3, 3, 3))
    rows = evaluate(dict(zip("ab", paths, strict=True)), (images, y), "gaussian:0.1", draws=1).rows
    assert list(rows["method"].unique()) == ["a", "b"]


def test_wrong_channels_and_classes_are_refused(tmp_path: Path) -> None:
    about = {"model": "digits:4", "channels": 1, "classes": ["a", "b", "c"], "label": "plain", "seed": 0}
    path = save_checkpoint(tmp_path / "a.safetensors", DigitsNet(width=4).build(1, 3).state_dict(), about)
    with pytest.raises(UserError, match="takes 1 channels, the data have 2"):
        evaluate(path, (torch.zeros(3, 2, 8, 8), torch.arange(3)), "gaussian:0.1")
    with pytest.raises(UserError, match="3 classes, the data have 4"):
        evaluate(path, (torch.zeros(4, 1, 8, 8), torch.arange(4)), "gaussian:0.1")
    # Two images cannot show all three classes; a data set that says it has two is another one.
    few = torch.zeros(2, 1, 8, 8), torch.arange(2)
    assert len(evaluate(path, few, "gaussian:0.1", draws=1).rows) == 2
    with pytest.raises(UserError, match="3 classes, the data have 2"):
        evaluate(path, Dataset(*few, classes=("a", "b")), "gaussian:0.1")


def test_a_module_gets_the_memory_format_and_precision_it_needs(data: tuple[Tensor, Tensor]) -> None:
    x, y = Stream(0, "x").normal((30, 3, 4, 4)), torch.arange(30) % 3
    viewing = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    viewing[1].forward = lambda t: t.view(len(t), -1)  # type: ignore[method-assign]
    expected = values(evaluate(viewing, (x, y), "gaussian:0.1", draws=2).rows, "loss")
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.bfloat16, 0.02)):
        found = values(evaluate(viewing.to(dtype), (x, y), "gaussian:0.1", draws=2).rows, "loss")
        assert found == pytest.approx(expected, rel=tolerance)


def test_token_ids_reach_the_network_as_they_are() -> None:
    net = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(8, 3))
    tokens = torch.arange(20).reshape(10, 2) % 7
    assert len(evaluate(net, (tokens, torch.arange(10) % 3), "gaussian:0.1", draws=1).rows) == 2


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), r"\(50, 2\)"),
        (nn.LSTM(2, 3), r"\(50, 2, 3\)"),
        (nn.Linear(2, 3), "50, 1, 2, 3"),
    ],
)
def test_a_model_that_gives_no_logits_is_refused(model: nn.Module, got: str, data: tuple[Tensor, Tensor]) -> None:
    x = data[0][:, 0] if isinstance(model, nn.LSTM) else data[0]
    with pytest.raises(UserError, match=rf"expected a model that gives logits of shape \(B, 3 or more\), got .*{got}"):
        evaluate(model, (x, data[1]), "gaussian:0.1")


def test_foreign_checkpoints_are_numbered_within_their_method(tmp_path: Path) -> None:
    data = torch.zeros(6, 1, 8, 8), torch.arange(6) % 3
    for name in "ab":
        save_checkpoint(tmp_path / f"{name}.safetensors", DigitsNet(width=4).build(1, 3).state_dict(), {})
    models = {name: tmp_path / f"{name}.safetensors" for name in "ab"}
    result = evaluate(models, data, "gaussian:0.1", draws=2, model="digits:4")
    assert set(result.rows["replicate"]) == {0}
    assert len(result.paired("a", "b")) == 1


def test_a_seed_that_rows_cannot_hold_is_refused_before_any_is_written(tmp_path: Path) -> None:
    with seeded(Stream(0, "net")):
        net = nn.Linear(6, 3)
    data, out = (torch.ones(4, 6), torch.arange(4) % 3), tmp_path / "rows.parquet"
    with pytest.raises(UserError, match="at most 64 bits"):
        evaluate(net, data, draws=1, seed=2**64, out=out)
    assert len(evaluate(net, data, draws=1, seed=1, out=out).rows) == 2
