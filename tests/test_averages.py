"""Averaged weights: what is averaged, what batch norm makes of it, what a run keeps and how it goes on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from methods import Failure, batch, few_digits, full_strength, normed_net, same_bits, sgd, smooth_net, state
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from noiserobust.data import Splits
from noiserobust.errors import UserError
from noiserobust.models import DigitsNet
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import Engine, Method, Plain, Progress, TrainSettings, fit


def at(step: int, steps: int = 12, epochs: int = 4) -> Progress:
    return Progress(step, steps, step * epochs // steps, epochs)


class TestInALoopOfOnesOwn:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_ema_is_torchs_averaged_model(self, dtype: torch.dtype) -> None:
        model = normed_net().to(dtype)
        engine, theirs = sgd(model, average="ema:0.8"), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
        for step in range(5):
            Method.parse("sam:0.1").step(engine, batch(step=step, dtype=dtype), full_strength(step))
            theirs.update_parameters(model)
        assert engine.kept.count == 5
        before = state(model)
        with engine.kept():
            assert same_bits(list(model.parameters()), list(theirs.module.parameters()))
        assert same_bits(state(model), before)

    @pytest.mark.parametrize(
        ("text", "counted"),
        [
            ("swa:0.5", [8, 11]),
            ("swa:0.0", [2, 5, 8, 11]),
            ("swa:6", [8, 11]),
            ("swa:0.5,every=2", [7, 9, 11]),
            ("swa:9,every=1", [9, 10, 11]),
        ],
    )
    def test_swa_is_the_mean_of_the_weights_that_count(self, text: str, counted: list[int]) -> None:
        """12 steps in 4 epochs: one at the end of every epoch by default."""
        model, seen = smooth_net(), []
        engine = sgd(model, average=text)
        for step in range(12):
            Plain().step(engine, batch(step=step, dtype=torch.float64), at(step))
            seen.append([parameter.detach().clone() for parameter in model.parameters()])
        assert engine.kept.count == len(counted)
        with engine.kept():
            for index, parameter in enumerate(model.parameters()):
                torch.testing.assert_close(
                    parameter.detach(), sum(seen[step][index] for step in counted) / len(counted)
                )

    def test_batch_norm_is_refreshed_as_update_bn_does(self) -> None:
        model = normed_net()
        engine = sgd(model, average="ema:0.5")
        for step in range(4):
            Plain().step(engine, batch(step=step), at(step))
        batches = [batch(step=step) for step in range(9, 12)]
        with engine.kept():
            alone = copy.deepcopy(model)
            averaged = [buffer.clone() for buffer in model.buffers()]
        alone.train()
        update_bn([one.inputs for one in batches], alone)
        with engine.kept(batches):
            for ours, theirs in zip(model.buffers(), alone.buffers(), strict=True):
                torch.testing.assert_close(ours, theirs)
            assert not same_bits(list(model.buffers()), averaged)

    def test_a_skipped_or_failed_step_is_no_part_of_it(self) -> None:
        model, scaler = normed_net(), torch.amp.GradScaler("cpu", init_scale=1024.0)
        engine = sgd(model, scaler=scaler, average="ema:0.5")
        Plain().step(engine, batch(), at(0))
        kept = copy.deepcopy(engine.memory)
        spoiled = batch()
        spoiled.inputs[0] = float("inf")
        model[1].eval()  # statistics must not learn from it
        Plain().step(engine, spoiled, at(1))
        assert scaler.get_scale() == 512
        assert engine.kept.count == 1
        assert same_bits(
            [*engine.memory["averaged weights"]["values"].values()], [*kept["averaged weights"]["values"].values()]
        )

    def test_a_bfloat16_average_moves(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3)).bfloat16()
        engine = sgd(model, lr=0.0, average="ema:0.999")
        Plain().step(engine, batch(dtype=torch.bfloat16), at(0))
        before = engine.memory["averaged weights"]["values"]["1.weight"].clone()
        with torch.no_grad():
            model[1].weight.add_(1.0)
        Plain().step(engine, batch(dtype=torch.bfloat16), at(1))
        moved = engine.memory["averaged weights"]["values"]["1.weight"] - before
        torch.testing.assert_close(moved, torch.full_like(before, 1e-3), rtol=0.02, atol=0)

    def test_without_an_average_nothing_happens(self) -> None:
        engine = sgd(normed_net())
        with engine.kept([batch()]):
            assert engine.kept.count == 0

    def test_a_step_inside_is_refused(self) -> None:
        """It would be undone."""
        model = normed_net()
        engine = sgd(model, average="ema:0.5")
        Plain().step(engine, batch(), at(0))
        before = state(model)
        with engine.kept(), pytest.raises(UserError, match=r"expected no training inside engine\.kept"):
            Plain().step(engine, batch(), at(1))
        assert same_bits(state(model), before)
        Plain().step(engine, batch(), at(1))
        assert engine.kept.count == 2

    def test_swa_must_know_the_step(self) -> None:
        engine = sgd(normed_net(), average="swa:0.5")
        engine.gradient(batch())
        with pytest.raises(UserError, match="swa: expected to know the step"):
            engine.commit()

    @pytest.mark.parametrize("text", ["ema:1.0", "ema:-0.1", "swa:1.5", "swa:0.5,every=0", "mean"])
    def test_bad_settings(self, text: str) -> None:
        with pytest.raises(UserError, match="expected"):
            sgd(normed_net(), average=text)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return few_digits(100)


def settings(**changes: Any) -> TrainSettings:
    few = {"model": DigitsNet(2), "epochs": 4, "batch_size": 32, "validation": 0.2, "select_draws": 1}
    return TrainSettings(**few | {"average": "ema:0.7", "optimizer": "AdamW", "lr": 0.01} | changes)


class TestRuns:
    def test_the_average_is_evaluated_and_kept(
        self, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The averaged weights of the epoch kept, against an AveragedModel beside the same run."""
        theirs: list[AveragedModel] = []
        commit = Engine.commit

        def beside(engine: Engine) -> bool:
            stepped = commit(engine)
            if not theirs:
                theirs.append(AveragedModel(engine.model, multi_avg_fn=get_ema_multi_avg_fn(0.7)))
            theirs[0].update_parameters(engine.model)
            return stepped

        monkeypatch.setattr(Engine, "commit", beside)
        run = fit(settings(select_on="none"), tmp_path, splits=splits)
        kept = read_checkpoint(run.checkpoint).weights
        for name, value in theirs[0].module.named_parameters():
            torch.testing.assert_close(kept[name], value.detach())
        assert list(run.log["averaged"]) == [3, 6, 9, 12]
        assert run.label == "plain, averaged ema:0.7"
        # Its statistics are of its own activations: a refresh again changes nothing.
        network = run.network
        stale = {name: buffer.clone() for name, buffer in network.named_buffers()}
        live = theirs[0].module
        assert any(
            (stale[name] - buffer).abs().max() > 1e-3 for name, buffer in live.named_buffers() if "running" in name
        )

    @pytest.mark.parametrize("changes", [{}, {"average": "swa:0.5", "method": "rwp:gaussian(0.1)", "weight_clip": 2.0}])
    def test_an_interrupted_run_goes_on_bit_for_bit(
        self, changes: dict[str, Any], splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        of = settings(**changes)
        whole = fit(of, tmp_path / "whole", splits=splits)
        commit, count = Engine.commit, iter(range(10**6))

        def failing(engine: Engine) -> bool:
            if next(count) in (4, 8 + 2):  # in the second epoch, and in the third
                raise Failure
            return commit(engine)

        with monkeypatch.context() as patched:
            patched.setattr(Engine, "commit", failing)
            for _ in range(2):
                with pytest.raises(Failure):
                    fit(of, tmp_path / "parts", splits=splits)
        parts = fit(of, tmp_path / "parts", splits=splits)
        assert same_bits(
            *([*read_checkpoint(run.checkpoint).weights.values()] for run in (parts, whole))  # type: ignore[arg-type]
        )
        pd.testing.assert_frame_equal(parts.log.drop(columns="seconds"), whole.log.drop(columns="seconds"))

    def test_an_epoch_before_the_average_is_never_kept(self, splits: Splits, tmp_path: Path) -> None:
        of = settings(average="swa:0.75", lr=1e-6)  # all epochs alike: else the first would be kept
        run = fit(of, tmp_path, splits=splits)
        assert list(run.log["averaged"]) == [0, 0, 0, 1]
        assert read_checkpoint(run.checkpoint).about["epoch"] == 3

    def test_an_average_of_nothing_is_refused(self, splits: Splits, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"expected an average that begins within 12 steps, got swa:1\.0"):
            fit(settings(average="swa:1.0"), tmp_path, splits=splits)

    def test_runs_without_one_keep_their_names(self, splits: Splits) -> None:
        assert settings(average=None).identity(splits) == TrainSettings(
            model=DigitsNet(2), epochs=4, batch_size=32, validation=0.2, select_draws=1, optimizer="AdamW", lr=0.01
        ).identity(splits)
        assert settings().identity(splits) != settings(average=None).identity(splits)
