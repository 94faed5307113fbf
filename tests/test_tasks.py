"""Every task: metrics against loops written out, data in the forms that people have, what is refused in one line."""

from __future__ import annotations

import copy
import json
import math
import re
import sqlite3
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

import noiserobust
from noiserobust import UserError
from noiserobust.cli import main
from noiserobust.data import Batch, Splits, as_dataset
from noiserobust.evaluation import Stop, Target, budget, keep_digital, landscape, sensitivity, sharpness, yields
from noiserobust.rng import Stream
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.tasks import Binary, Classification, MultiLabel, Regression, Segmentation, Task, Tokens
from noiserobust.tasks.metrics import Metric, meters
from noiserobust.tasks.quantities import quantity
from noiserobust.tasks.scoring import score
from noiserobust.training import TrainSettings, fit, load_run

NOISE = "gaussian:0.1"


def normal(*shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(shape)


def whole(below: int, *shape: int, name: str = "y") -> Tensor:
    return (Stream(1, name).uniform(shape) * below).long()


X, Y = normal(60, 6), whole(3, 60)


def net(outputs: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, outputs)).eval()


def net_of(channels: int, classes: int) -> nn.Module:
    return net()


def mean_answer(model: nn.Module) -> Tensor:
    return model(X).mean()


def values(model: nn.Module, data: Any, **options: Any) -> dict[str, float]:
    """The metrics of draw 0."""
    rows = noiserobust.evaluate(model, data, NOISE, draws=1, **options).rows
    return dict(zip(rows["metric"], rows["value"], strict=True))


@torch.no_grad()
def answers(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What draw 0 answers, by a call of one's own."""
    with noiserobust.perturbed(model, NOISE, draw=0):
        return model.eval()(*args, **kwargs)


def refused(message: str) -> Any:
    return pytest.raises(UserError, match=rf"^{message}[^\n]*$")


def near(expected: dict[str, Any], rel: float = 1e-6) -> Any:
    return pytest.approx({name: float(value) for name, value in expected.items()}, rel=rel)


class TestMetrics:
    """Each against its definition, counted in two unequal batches."""

    @staticmethod
    def counted(task: Task, predictions: Tensor, labels: Any, inputs: Any = None) -> dict[str, float]:
        meter = task.meter()
        for rows in (slice(0, 3), slice(3, None)):
            given = predictions if inputs is None else inputs
            meter.update(predictions[rows], Batch(given[rows], labels[rows]))
        return meter.compute()

    def test_classification(self) -> None:
        logits, labels = normal(8, 3), whole(3, 8)
        right, loss = (logits.argmax(1) == labels).float().mean(), functional.cross_entropy(logits, labels)
        assert self.counted(Classification(), logits, labels) == near({"accuracy": 100 * right, "loss": loss})

    def test_regression(self) -> None:
        # Large offsets: the variance must not drown in them.
        answer, labels = normal(8, 2) + 1e6, normal(8, 2, name="y") + 1e6
        answer, labels = answer.double(), labels.double()
        error = answer - labels
        r2 = 1 - error.square().sum(0) / (labels - labels.mean(0)).square().sum(0)
        expected = {"mse": error.square().mean(), "mae": error.abs().mean(), "r2": r2.mean()}
        found = self.counted(Regression(), answer, labels)
        assert found == near({**expected, "loss": expected["mse"]}, rel=1e-9)
        assert next(iter(self.counted(Regression("r2"), answer, labels))) == "r2"
        # One output: (B, 1) against (B,) is no table of all differences.
        assert self.counted(Regression(), answer[:, :1], labels[:, 0])["mse"] == pytest.approx(
            error[:, 0].square().mean().item(), rel=1e-9
        )

    def test_several_labels(self) -> None:
        logits, labels = normal(8, 4), whole(2, 8, 4)
        right = (logits > 0) == (labels > 0)
        hits = ((logits > 0) & (labels > 0)).sum()
        f1 = 200 * hits / (2 * hits + (~right).sum())
        loss = functional.binary_cross_entropy_with_logits(logits, labels.float())
        found = self.counted(MultiLabel(), logits, labels.float())
        assert found == near({"accuracy": 100 * right.all(1).float().mean(), "f1": f1, "loss": loss})
        unknown = labels.clone()
        unknown[0, 1] = -100
        known = unknown >= 0
        loss = functional.binary_cross_entropy_with_logits(logits[known], labels[known].float())
        assert self.counted(MultiLabel(), logits, unknown)["loss"] == pytest.approx(loss.item(), rel=1e-6)
        one = self.counted(Binary(), logits[:, 0], labels[:, 0])
        assert one["accuracy"] == pytest.approx(100 * right[:, 0].float().mean().item())

    def test_samples_without_a_known_label_are_not_right(self) -> None:
        logits, labels = torch.tensor([-1.0, -1.0, 1.0, 1.0]), torch.tensor([1, 1, -100, -100])
        assert self.counted(Binary(), logits, labels)["accuracy"] == 0
        several = torch.stack([labels, torch.tensor([0, 0, -100, 1])], 1)
        assert self.counted(MultiLabel(), logits[:, None].expand(4, 2), several)["accuracy"] == pytest.approx(100 / 3)
        with pytest.raises(UserError, match="expected samples with a known label for"):
            Binary().answers(logits, Batch(logits, labels))

    def test_five_largest_of_every_pixel(self) -> None:
        logits, labels = normal(4, 9, 5, 5), whole(9, 4, 5, 5)
        labels[0] = 255
        five = (logits.topk(5, 1).indices == labels[:, None]).any(1)[labels != 255]
        (meter,) = meters({"top5": Metric.parse("top5")}, Segmentation())
        meter.update(logits, Batch(logits, labels))
        assert meter.compute()["top5"] == pytest.approx(100 * five.float().mean().item())
        for task in (Binary(), MultiLabel(), Regression()):
            (meter,) = meters({"top5": Metric.parse("top5")}, task)
            with pytest.raises(UserError, match="top5: expected class numbers"):
                meter.update(normal(8, 4), Batch(normal(8, 4), whole(2, 8, 4)))

    def test_pixels_have_labels_from_0_on(self) -> None:
        data = as_dataset((normal(4, 1, 5, 5), whole(3, 4, 5, 5) - 1))
        with pytest.raises(UserError, match=r"labels from 0 on .*, got -1; segmentation:ignored=-1 leaves those out"):
            Segmentation().suited(data)
        Segmentation(ignored=-1).suited(data)

    def test_less_is_better_of_what_a_function_alone_measures(self) -> None:
        assert not quantity("word_errors", "score:own_parts:errors(less=true)").higher_is_better
        assert quantity("accuracy", "score:own_parts:errors(less=true)").higher_is_better

    @pytest.mark.parametrize("ignored", [255, -100])
    def test_segmentation(self, ignored: int) -> None:
        logits, labels = normal(4, 3, 5, 5), whole(3, 4, 5, 5)
        labels[0] = ignored
        kept = labels != ignored
        answer = logits.argmax(1)
        both = [((answer == c) & (labels == c))[kept].sum() for c in range(3)]
        either = [((answer == c) | (labels == c))[kept].sum() for c in range(3)]
        miou = 100 * sum(i / u for i, u in zip(both, either, strict=True)) / 3
        loss = functional.cross_entropy(logits.movedim(1, -1)[kept], labels[kept])
        right = 100 * (answer == labels)[kept].float().mean()
        found = self.counted(Segmentation(), logits, labels)
        assert found == near({"miou": miou, "accuracy": right, "loss": loss})
        small = self.counted(Segmentation(), logits[:, :, ::2, ::2], labels)  # brought to the labels' size
        assert 0 < small["miou"] < 100

    @pytest.mark.parametrize("shift", [True, False])
    def test_tokens(self, shift: bool) -> None:
        ids, logits = whole(7, 6, 5), normal(6, 5, 7)
        labels = ids.clone() if shift else (ids + 1) % 7
        labels[:2, 3:] = -100
        given, asked = (logits[:, :-1], labels[:, 1:]) if shift else (logits, labels)
        kept = asked != -100
        loss = functional.cross_entropy(given[kept], asked[kept]).item()
        right = 100 * (given.argmax(2) == asked)[kept].float().mean()
        found = self.counted(Tokens(), logits, labels, ids)
        assert found == near({"perplexity": math.exp(loss), "accuracy": right, "loss": loss})
        assert Tokens().suited(as_dataset({"input_ids": ids, "labels": labels})).shift == shift
        # The loss of data is the mean over tokens, not over texts.
        batch = Batch(ids, labels)
        each, counts = Tokens().losses(logits, batch), Tokens().counts(batch)
        assert ((each * counts).sum() / counts.sum()).item() == pytest.approx(loss, rel=1e-6)

    def test_divergences_are_those_of_the_probabilities(self) -> None:
        now, then, labels = normal(5), normal(5, name="then"), whole(2, 5)
        found = Binary().divergence(then, now, Batch(now, labels), 2.0)
        p, q = (torch.stack([(s / 2).sigmoid(), (-s / 2).sigmoid()], 1) for s in (then, now))
        assert torch.allclose(found, (p * (p / q).log()).sum(1), atol=1e-6)
        with refused("expected a task whose outputs are logits of probabilities, got regression"):
            Regression().divergence(then, now, Batch(now, labels), 2.0)


class Undefined(nn.Module):
    """No number for some inputs, by a division of zeros; its weights are finite."""

    def __init__(self, value: float = math.nan) -> None:
        super().__init__()
        self.linear, self.value = net(), value

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1] > 0, self.value, self.linear(x))


class TestNoNumbers:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_an_answer_that_is_none_is_wrong_and_counted(self, value: float) -> None:
        model, y = Undefined(value).eval(), torch.zeros_like(Y)
        with pytest.warns(UserWarning, match=rf"{int((X[:, 0] > 0).sum())} answers in 1 passes are NaN or infinite"):
            result = noiserobust.evaluate(model, (X, y), NOISE, draws=1, metrics=["top5"])
        found = dict(zip(result.rows["metric"], result.rows["value"], strict=True))
        logits = answers(model, X)
        defined = X[:, 0] <= 0
        assert found["accuracy"] == pytest.approx(100 * ((logits.argmax(1) == y) & defined).float().mean().item())
        assert found["top5"] == pytest.approx(100 * defined.float().mean().item())
        assert found["nan_answers"] == (~defined).sum()
        assert "count as wrong" in result.table()
        assert "nan_answers" not in set(result.summary()["metric"])
        assert not noiserobust.evaluate(net(), (X, y), NOISE, draws=1).nan_answers

    @pytest.mark.parametrize("by_bf16", [False, True])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_to_a_precision(self, value: float, by_bf16: bool) -> None:
        model, y = Undefined(value).eval(), torch.zeros_like(Y)
        defined = (X[:, 0] <= 0).float().mean().item()
        target = Target(10, by_bf16=by_bf16)
        with pytest.warns(UserWarning, match="answers in 32 passes are NaN or infinite and count as wrong"):
            result = noiserobust.evaluate(model, (X, y), NOISE, precision_target=target)
        assert result.summary()["mean"].iloc[0] < 100 * defined + 10
        rows = result.rows.set_index("metric")["value"]
        share = rows["nan_answers"].sum() / rows["subset_images"].sum()
        assert share == pytest.approx(1 - defined, abs=0.1)
        assert result.nan_answers in result.table()

    def test_a_design_and_stored_rows_say_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Every answer of which such answers are a part, in Python and on the command line."""
        model, y = Undefined(math.nan).eval(), torch.zeros_like(Y)
        said = "are NaN or infinite and count as wrong: "
        with pytest.warns(UserWarning, match=said):
            result = sensitivity(model, (X, y), NOISE, draws=2)
        assert said in result.nan_answers
        with pytest.warns(UserWarning, match=said):
            rows = noiserobust.evaluate(model, (X, y), NOISE, draws=2, out=tmp_path / "rows.parquet").rows
        assert said in yields(rows).nan_answers
        for command in ("report", "yield"):
            main([command, str(tmp_path / "rows.parquet")])
            assert said in "".join(capsys.readouterr())
            main([command, str(tmp_path / "rows.parquet"), "--json"])
            assert said in json.loads(capsys.readouterr().out)["nan_answers"]

    def test_weights_that_are_none_are_refused(self) -> None:
        model = nn.Sequential(net(), nn.BatchNorm1d(3)).eval()
        model[1].running_var[0] = math.nan
        with refused("expected finite weights, got NaN or inf in 1.running_var of Sequential"):
            values(model, (X, Y))
        model = net()
        model[0].weight.data.fill_(math.nan)
        for call in (values, lambda m, d: sharpness(m, d), lambda m, d: sensitivity(m, d, draws=2)):
            with refused("expected finite weights, got NaN or inf in 0.weight"):
                call(model, (X, torch.zeros_like(Y)))

    def test_the_epoch_that_is_kept_has_numbers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import noiserobust.training.trainer as trainer

        found = iter([[2.0, math.nan], [2.0, 3.0], [2.0, math.nan], [2.0, 4.0]])  # clean, perturbed

        def of_epoch(*_: Any) -> dict[str, float]:
            queue = of_epoch.queue = getattr(of_epoch, "queue", None) or list(next(found))  # type: ignore[attr-defined]
            value = queue.pop(0)
            return {"mse": value, "loss": 1.0}

        monkeypatch.setattr(trainer, "score", of_epoch)
        data = (X, normal(60)), (X, normal(60))
        settings = TrainSettings(model="factory:test_tasks:built", task="regression", epochs=4, select_draws=1)
        run = fit(settings, tmp_path, splits=Splits(*data))
        assert read_checkpoint(run.checkpoint).about["epoch"] == 1


class TestData:
    """The same samples in every form give the same numbers."""

    def test_pairs_and_loaders(self) -> None:
        class Stored(IterableDataset):  # type: ignore[type-arg]
            def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
                return iter(zip(X, Y, strict=True))

        expected = values(net(), (X, Y))
        pairs = TensorDataset(X, Y)
        for data in (
            pairs,
            Stored(),
            list(zip(X.tolist(), Y.tolist(), strict=True)),
            DataLoader(pairs, batch_size=7),
            DataLoader(pairs, batch_size=7, shuffle=True),
            DataLoader(Stored(), batch_size=7),
            DataLoader(pairs, batch_sampler=BatchSampler(range(60), 11, False)),  # type: ignore[arg-type]
            DataLoader(pairs, batch_size=None),
            DataLoader(Stored(), batch_size=None),
            DataLoader([(X[:50], Y[:50]), (X[50:], Y[50:])], batch_size=None),  # type: ignore[arg-type]
        ):
            assert values(net(), data) == pytest.approx(expected, rel=1e-6), type(data)

    @pytest.mark.parametrize(
        ("options", "images"),
        [
            ({"sampler": RandomSampler(range(60), num_samples=5)}, 5),
            ({"sampler": RandomSampler(range(60), replacement=True, num_samples=90)}, 90),
            ({"sampler": [3, 1, 2]}, 3),
            ({"batch_sampler": [[0, 1], [5]]}, 3),
            ({"shuffle": True, "drop_last": True, "batch_size": 8}, 56),
        ],
    )
    def test_a_loaders_own_sampler_counts(self, options: dict[str, Any], images: int) -> None:
        rows = noiserobust.evaluate(net(), DataLoader(TensorDataset(X, Y), **options), NOISE, draws=1).rows
        assert set(rows["images"]) == {images}

    def test_several_inputs_and_outputs(self) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two = net(), nn.Linear(2, 3)

            def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
                return {"aux": a, "logits": self.one(a) + self.two(b)}

        model, other = Two().eval(), normal(60, 2)
        logits = answers(model, X, other)["logits"]
        loss = functional.cross_entropy(logits, Y).item()
        columns = {"a": X, "b": other, "label": Y, "name": ["text"] * 60}
        rows = [{name: column[i] for name, column in columns.items()} for i in range(60)]
        for data in (((X, other), Y), ({"a": X, "b": other}, Y), columns, rows, DataLoader(rows, batch_size=9)):  # type: ignore[arg-type]
            assert values(model, data)["loss"] == pytest.approx(loss, rel=1e-6)
        assert values(model, columns, images=20)  # a stratified sample
        found = sharpness(model, columns, ["loss", "ascent_sharpness:0.05,m=20", "hessian_top:1"]).rows
        assert found["value"].notna().all()
        assert landscape(model, columns, 1, points=3).rows["value"].notna().all()

    def test_samples_of_several_lengths(self) -> None:
        class Words(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.words, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)

            def forward(self, ids: Tensor) -> Tensor:
                return self.head(self.words(ids).mean(1))

        model = Words().eval()
        rows = [{"ids": whole(9, 3 + i % 4, name=str(i)).tolist(), "label": i % 3} for i in range(20)]
        data = as_dataset(rows)
        assert len(data) == 20
        right = sum(answers(model, torch.tensor([r["ids"]])).argmax().item() == r["label"] for r in rows)
        assert values(model, rows)["accuracy"] == pytest.approx(5 * right)
        picked = data.subset([19, 0, 3])
        assert [part.labels.tolist() for part in picked.parts] == [[1], [0], [0]]  # type: ignore[attr-defined]
        assert data.sample(6, Stream(0)).labels.bincount().tolist() == [2, 2, 2]

    def test_whole_numbers_that_are_features(self) -> None:
        model, features = net(), (10 * X).long()
        assert values(model, (features, Y)) == values(model, (features.float(), Y))
        tokens = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(4 * 6, 4))
        assert values(tokens, (whole(9, 60, 6), Y))["loss"] > 0
        with refused(r"expected a network that takes inputs of shape \(6,\) \(int64\)"):
            values(nn.Sequential(nn.Linear(5, 4)), (features, Y))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (
                (X, Y.float()),
                "expected whole numbers as labels of the task classification, got torch.float32; tasks",
            ),
            ((X, whole(3, 60, 4)), r"expected labels of shape \(N,\) for the task classification, got \(60, 4\)"),
            (
                ((x, y) for x, y in zip(X, Y, strict=True)),
                "expected data that can be read more than once, got a gen",
            ),
            ([(X[0], X[1], 0)], r"expected data that yields \(tensor, label\), got .*: put the inputs together"),
            ({"text": ["a"], "label": [0]}, "expected columns of numbers, got text, label; tokenize texts"),
            ({"a": X, "label": Y}, "expected a network that takes inputs a of shape"),
            ((X, Y - 1), "expected labels from 0 on"),
            ((X[:5], Y), "expected one label for each of 5 images"),
        ],
    )
    def test_refusals(self, data: Any, message: str) -> None:
        with refused(message):
            values(net(), data)

    @pytest.mark.parametrize(
        ("task", "model", "labels", "message"),
        [
            (
                None,
                net(1),
                Y % 2,
                r"expected a model that gives logits of shape \(B, 2 or more\).*its task: binary",
            ),
            ("binary", net(2), Y % 2, "expected a model that gives a logit for each label, of shape .*classification"),
            (
                "binary",
                net(1),
                Y,
                r"expected labels 0 or 1 \(-100: unknown\) of binary, got \[0, 1, 2\]",
            ),
            ("regression", net(3), Y.float(), "expected a model that gives a number for each label"),
            ("regression", net(1), Y / 0, "expected finite labels of the task regression"),
            ("tokens", net(3), Y, r"expected labels of shape \(N, T\) for the task tokens"),
            ("nonsense", net(3), Y, r"expected a task \(binary, classification"),
        ],
    )
    def test_a_task_that_does_not_fit(self, task: Any, model: nn.Module, labels: Tensor, message: str) -> None:
        with refused(message):
            values(model, (X, labels), task=task)


class TestFurtherMetrics:
    def test_top5_of_three_classes(self) -> None:
        assert values(net(), (X, Y), metrics="top5")["top5"] == 100

    def test_torchmetrics(self) -> None:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
        from torchmetrics.text import Perplexity

        logits = answers(net(), X)
        f1, each = MulticlassF1Score(3)(logits, Y).item(), MulticlassAccuracy(3, average=None)(logits, Y)
        per_class = {f"MulticlassAccuracy/{i}": value.item() for i, value in enumerate(each)}
        own = MulticlassF1Score(3)
        found = values(net(), (X, Y), metrics=[own, MulticlassAccuracy(3, average=None)])
        assert found == {**values(net(), (X, Y)), "MulticlassF1Score": f1, **per_class}
        assert not own.update_called  # a copy counts
        collection = MetricCollection([own, MulticlassAccuracy(3)], prefix="my_")
        assert values(net(), (X, Y), metrics=collection)["my_MulticlassF1Score"] == f1
        text = "torchmetrics.classification:MulticlassF1Score(num_classes=3)"
        assert values(net(), (X, Y), metrics=text)[text] == f1
        model, ids = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7)), whole(7, 20, 5)
        found = values(model, ids, task="tokens", metrics=[Perplexity(), "perplexity"])
        assert found["Perplexity"] == pytest.approx(found["perplexity"], rel=1e-6)

    def test_parts_are_known_again(self, tmp_path: Path) -> None:
        calls = deque[int]()  # of no value that names the function

        def metric(logits: Tensor, labels: Tensor) -> dict[str, Any]:
            calls.append(len(logits))
            return {"a": logits.sum(), "b": torch.arange(2)}

        first, second = (values(net(), (X, Y), metrics={"m": metric}, out=tmp_path / "r.parquet") for _ in range(2))
        assert first == second
        assert set(first) == {"accuracy", "loss", "m/a", "m/b/0", "m/b/1"}
        assert [*calls] == [60]  # the whole at once, and once

    def test_names_of_the_task_are_taken(self) -> None:
        with refused("expected metrics beside mse and mae and r2 and loss, got one named 'mae'"):
            list(meters({"mae": lambda a, b: 0.0}, Regression()))


def built(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(channels, 8), nn.Tanh(), nn.Linear(8, classes))


class Sequence(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(7, 8), nn.Linear(8, classes)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.words(input_ids))}


def sequences(channels: int, classes: int) -> nn.Module:
    return Sequence(classes)


class TestTraining:
    @pytest.mark.parametrize("method", ["sam:0.05", "rwp:gaussian(0.1)", "esam:0.05"])
    def test_of_numbers(self, method: str, tmp_path: Path) -> None:
        labels = X[:, :2].sin()
        settings = TrainSettings(
            model="factory:test_tasks:built", task="regression", method=method, epochs=12, lr=0.3, log=["loss"]
        )
        run = fit(settings, tmp_path, splits=Splits((X, labels), (X, labels)))
        log = run.log
        assert log["train_loss"].iloc[-1] < 0.6 * log["train_loss"].iloc[0]
        assert log["perturbed_mse"].idxmin() == read_checkpoint(run.checkpoint).about["epoch"]
        assert log["train/loss"].notna().all()
        again = load_run(run.folder, "factory:test_tasks:built")
        assert again.settings.task == Regression()
        # The checkpoint knows its task.
        found = noiserobust.evaluate(again, (X, labels), NOISE, draws=1)
        assert set(found.rows["task"]) == {"regression"}
        mse = functional.mse_loss(answers(run.network if run.model else again.network, X), labels).item()
        assert found.rows["value"].iloc[0] == pytest.approx(mse, rel=1e-5)

    def test_of_tokens(self, tmp_path: Path) -> None:
        ids = whole(7, 64, 6)
        ids[:, 1::2] = (ids[:, ::2] + 1) % 7
        settings = TrainSettings(
            model="factory:test_tasks:sequences", task="tokens", epochs=4, lr=0.5, method="mesa:0.8,start=1"
        )
        run = fit(settings, tmp_path, splits=Splits({"input_ids": ids}, {"input_ids": ids}))
        log = run.log
        assert log["perplexity"].iloc[-1] < log["perplexity"].iloc[0]
        assert (log["perplexity"] - log["loss"].map(math.exp)).abs().max() < 1e-9
        about = read_checkpoint(run.checkpoint).about
        assert about["task"] == "tokens:shift=true"
        assert about["epoch"] == log["perturbed_perplexity"].idxmin()

    def test_a_task_that_changes_nothing_names_no_run(self) -> None:
        splits = Splits((X, Y), (X, Y))
        assert TrainSettings().identity(splits) == TrainSettings(task="classification").identity(splits)
        assert TrainSettings().identity(splits) != TrainSettings(task="binary").identity(splits)


class TestDesign:
    """Sensitivities, budgets, digital layers and yields are of the task's metric, and say which way is worse."""

    labels = X[:, 0].sin()

    def test_of_numbers(self, tmp_path: Path) -> None:
        model, data = net(1), (X, self.labels)
        options: dict[str, Any] = {"draws": 3, "task": "regression"}
        effects = sensitivity(model, data, "gaussian:0.3", **options).summary()
        everything = effects[(effects["layer"] == "all layers") & (effects["metric"] == "mse")]["mean"].iloc[0]
        noisy, clean = (noiserobust.evaluate(model, data, n, **options).rows for n in ("gaussian:0.3", "gaussian:0"))
        mse = [rows[rows["metric"] == "mse"]["value"].mean() for rows in (noisy, clean)]
        assert everything == pytest.approx(mse[0] - mse[1])  # harm is positive
        found = budget(model, data, "gaussian:{x}", (0, 0.5), within=0.02, **options)
        assert "of mse" in found.table()
        kept = keep_digital(model, data, "gaussian:0.3", stop=Stop(max_layers=1), **options)
        assert {"mse", "search_mse"} <= set(kept.summary())
        rows = noiserobust.evaluate(model, data, "gaussian:0.3", draws=9, task="regression").rows
        chips = rows[rows["metric"] == "mse"]["value"]
        summary = yields(rows, above=chips.median(), share=0.5).summary().iloc[0]
        assert summary["reached"] == 5  # at most the median
        assert not summary["bound"] < chips.median()
        for result in (sensitivity(model, data, "gaussian:0.3", **options), found, kept, yields(rows)):
            result.plot(tmp_path / "a.png")
        precise = noiserobust.evaluate(model, data, "gaussian:0.3", precision_target=0.05, task="regression")
        line = precise.summary().iloc[0]
        found = noiserobust.evaluate(model, data, "gaussian:0.3", draws=int(line["draws"]), task="regression").rows
        assert line["mean"] == pytest.approx(found[found["metric"] == "mse"]["value"].mean())
        assert (line["metric"], line["reached"]) == ("mse", True)
        assert "mse: mean ± half the 95 % interval" in precise.table()

    def test_a_scoring_function(self, tmp_path: Path) -> None:
        def mean(model: nn.Module) -> dict[str, Tensor]:
            assert not model.training
            return {"mean": model(X).mean(), "largest": model(X).max()}

        model = net(1)
        found = values(model, mean)
        given = answers(model, X)
        assert found == near({"mean": given.mean(), "largest": given.max()})
        assert values(model, None, task=mean) == found
        assert "mean: mean" in noiserobust.evaluate(model, mean, NOISE, draws=2).table()
        effects = sensitivity(model, mean, draws=2).summary()
        assert set(effects["metric"]) == {"mean"}
        for call in (sharpness, lambda m, d: landscape(m, d, 1, points=3)):
            with refused("expected a task with losses of samples for measures and landscapes, got score:"):
                call(model, mean)
        one, two = (lambda m: 1.0), (lambda m: 2.0)  # of one line, and one name
        assert [values(model, f, out=tmp_path / "r.parquet")["score"] for f in (one, two, one)] == [1.0, 2.0, 1.0]
        with refused("expected a task with a metric of its own for a precision, got score:"):
            noiserobust.evaluate(model, mean, precision_target=1)
        with refused("expected no further metrics beside score:"):
            values(model, mean, metrics="top5")

    def test_weights_alone_are_scored_with_their_model(self, tmp_path: Path) -> None:
        model, file = net(), tmp_path / "own.pt"
        torch.save(model.state_dict(), file)
        given: dict[str, Any] = {"task": mean_answer, "model": "factory:test_tasks:net_of", "draws": 1}
        with refused("expected a checkpoint that says the channels and classes of factory:test_tasks:net_of"):
            noiserobust.evaluate(file, None, NOISE, **given)
        rows = noiserobust.evaluate(file, "digits", NOISE, **given).rows
        assert rows["value"].tolist() == pytest.approx([answers(model, X).mean().item()])

    def test_precision_of_yes_and_no(self) -> None:
        model, labels = net(1), (X[:, 0] > 0).long()
        exact = noiserobust.evaluate(model, (X, labels), NOISE, draws=60, task="binary").rows
        mean = exact[exact["metric"] == "accuracy"]["value"].mean()
        found = noiserobust.evaluate(model, (X, labels), NOISE, precision_target=4, task="binary").summary().iloc[0]
        assert abs(found["mean"] - mean) < 6


def test_rows_of_another_task_are_others(tmp_path: Path) -> None:
    out, labels = tmp_path / "r.parquet", Y % 2
    first = values(net(1), (X, labels), task="binary", out=out)
    second = values(net(1), (X, labels), task="regression", out=out)
    assert set(first) != set(second)
    assert set(pd.read_parquet(out)["task"]) == {"binary", "regression"}
    assert values(net(1), (X, labels), task="binary", out=out) == first


def test_rows_without_a_task_are_of_classification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger of a version that knew no tasks is taken over."""
    out = tmp_path / "r.parquet"
    expected = values(net(), (X, Y), out=out)
    with sqlite3.connect(f"{out}.ledger") as ledger:
        for number, text in ledger.execute("SELECT id, columns FROM conditions").fetchall():
            columns = {name: value for name, value in json.loads(text).items() if name != "task"}
            ledger.execute("UPDATE conditions SET columns = ? WHERE id = ?", [json.dumps(columns), number])
        (unit,) = ledger.execute("SELECT value FROM about WHERE name = 'unit'").fetchone()
        older = json.dumps([name for name in json.loads(unit) if name != "task"])
        ledger.execute("UPDATE about SET value = ? WHERE name = 'unit'", [older])
    monkeypatch.setattr("noiserobust.evaluation.on_chips.score", None)  # nothing is computed again
    assert values(net(), (X, Y), out=out) == expected


def test_classification_is_what_it_was() -> None:
    """Bit for bit: sums of float32 over batches of 50."""
    correct, loss = torch.zeros(()), torch.zeros(())
    model = net()
    with torch.no_grad():
        for start in (0, 50):
            logits, labels = model(X[start : start + 50]), Y[start : start + 50]
            correct += (logits.argmax(1) == labels).sum()
            loss += functional.cross_entropy(logits, labels, reduction="sum")
    batches = [Batch(X[:50], Y[:50]), Batch(X[50:], Y[50:])]
    assert score(model, batches) == {"accuracy": 100 * correct.item() / 60, "loss": loss.item() / 60}


def test_a_checkpoint_starts_no_code(tmp_path: Path) -> None:
    run = fit(TrainSettings(epochs=1), tmp_path)
    stored = read_checkpoint(run.checkpoint)
    evil = copy.copy(stored)
    object.__setattr__(evil, "about", {**stored.about, "task": "score:os:getcwd"})
    with refused(re.escape("expected task=score:os:getcwd: a file names code")):
        noiserobust.evaluate(evil, draws=1)


def test_rows_of_another_function_of_a_metric_s_name_are_computed_anew(tmp_path: Path) -> None:
    def scored(factor: float) -> Any:
        def tally(logits: Tensor, labels: Tensor) -> float:
            return factor * len(labels)

        return tally

    model, data, out = nn.Linear(4, 2), (torch.rand(6, 4), torch.arange(6) % 2), tmp_path / "rows.parquet"
    asked = [
        noiserobust.evaluate(model, data, "gaussian:0.1", 2, metrics=[scored(factor)], out=out).rows.set_index(
            "metric"
        )["value"]
        for factor in (1.0, 2.0, 2.0)
    ]
    assert [[*values["tally"]] for values in asked] == [[6.0] * 2, [12.0] * 2, [12.0] * 2]
    rows = noiserobust.evaluate(model, data, "gaussian:0.1", 2, out=out).rows  # without it nothing is computed anew
    assert (rows["metric"] == "tally").sum() == 2
