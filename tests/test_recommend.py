"""The search for a training rule: its ladder, its scores, its answer on copies and draws of their own."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from noiserobust import UserError
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.cli.flags import read_command
from noiserobust.cli.recommend import Recommend
from noiserobust.cli.train import Train
from noiserobust.evaluation import evaluate
from noiserobust.noise import NoiseModel
from noiserobust.rng import Stream
from noiserobust.storage.checkpoints import read_checkpoint, save_checkpoint
from noiserobust.sweep import recommend
from noiserobust.sweep.executors import compute
from noiserobust.sweep.halving import Rung, Trial, halve, rungs_of
from noiserobust.sweep.pieces import Training, epoch_cost
from noiserobust.sweep.recommendation import AS_GIVEN, CHOOSING, candidates_for, command_of, equivalent, taught, within
from noiserobust.training import TrainSettings, fit

NOISE = "gaussian:0.2"


def test_a_budget_pays_the_final_copies_then_the_search_then_the_teacher() -> None:
    costs = [1.0] * 12 + [2.0] * 4  # as those of the default candidates
    for example in filter(lambda text: "--budget" in text, Recommend.examples):
        given = read_command(Recommend, shlex.split(example)[2:], "recommend")
        assert within(given.budget, costs, given.settings.epochs, given.copies, teaches=True)[1] is False
    poor, no = within(700, costs, 30, 3, teaches=True)
    rich, yes = within(1300, costs, 30, 3, teaches=True)
    full, all_ = within(None, costs, 30, 3, teaches=True)
    assert (no, yes, all_) == (False, True, True)
    assert poor[-1].epochs <= rich[-1].epochs <= full[-1].epochs == 30
    with pytest.raises(UserError, match=r"budget of at least .* passes"):
        within(300, costs, 30, 3, teaches=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("search")
    base = TrainSettings(epochs=2, batch_size=256, select_draws=1)
    vary = {"method": ["sam:0.2", "rwp:gaussian(0.2)", "plain", "plain"], "lr": ["0.05", "1e30"]}
    return folder, base, vary, recommend(NOISE, base, vary, copies=2, draws=2, out=folder)


def test_ladder_keeps_half_and_doubles_epochs() -> None:
    assert rungs_of([1.0] * 7, 16) == [Rung(7, 4), Rung(4, 8), Rung(2, 16)]
    assert rungs_of([1.0, 2.0, 2.0], 16) == [Rung(3, 16)]


def test_ladder_keeps_to_its_budget_with_the_dearest_candidates() -> None:
    costs = [1.0, 2.0, 1.0, 2.0]
    for budget in (20.0, 60.0, 100.0):
        rungs = rungs_of(costs, 30, budget)
        spent = sum(rung.epochs * sum(sorted(costs)[-rung.candidates :]) for rung in rungs)
        assert spent <= budget
        assert rungs[-1].epochs <= 30
    with pytest.raises(UserError, match=r"at least 10 passes \(10 to search 4 candidates, .*\), got 3"):
        rungs_of(costs, 30, 3)


def test_search_orders_by_held_out_score_and_survives_divergence(found: tuple) -> None:
    folder, base, _, result = found
    search = result.search
    assert search["rung"].tolist() == [2, 2, 2, 1, 1, 1, 1, 1, 1]
    for _, rung in search.groupby("rung"):
        scores = rung["score"].fillna(-1).to_numpy()
        assert (np.diff(scores) <= 0).all()
    # A learning rate of 1e30 gives no finite loss; such candidates come last and do not go on.
    assert search["score"].isna().sum() == 3
    assert set(search[search["rung"] == 2]["candidate"]) == {0, 2, 4}
    assert "diverged" in result.table()
    # The score is the log's own, of the epoch that was kept.
    first = search.iloc[0]
    settings = replace(base, select_noise=NOISE, method=first["method"], epochs=2)
    log = fit(settings, folder / "runs").log
    assert first["score"] == pytest.approx(log["perturbed_accuracy"].max(), rel=1e-12)


def test_final_copies_and_draws_are_not_those_of_the_search(found: tuple) -> None:
    folder, _, _, result = found
    assert sorted(result.rows["replicate"].unique()) == [1, 2]
    seeds = {read_checkpoint(path).about["seed"] for path in result.rows["model"].unique()}
    assert seeds == {1, 2}
    assert set(result.rows["method"]) == {result.winner.label, result.rival.label}
    # A second way: the same trainings and draws by hand.
    runs = {
        one.label: [fit(replace(one, seed=seed), folder / "elsewhere").checkpoint for seed in (1, 2)]
        for one in (result.winner, result.rival)
    }
    twin = evaluate(runs, "digits", NOISE, 2)
    means = [one.rows[one.rows["metric"] == "accuracy"].groupby("method")["value"].mean() for one in (result, twin)]
    difference = means[1][result.winner.label] - means[1][result.rival.label]
    assert means[0].to_dict() == means[1].to_dict()
    assert result.difference["mean"].iloc[0] == pytest.approx(difference)


def test_same_call_computes_nothing_again(found: tuple) -> None:
    folder, base, vary, result = found
    done = []
    again = recommend(NOISE, base, vary, copies=2, draws=2, out=folder, on_piece=lambda *piece: done.append(piece))
    assert done == []
    assert again.table() == result.table()


def test_command_trains_the_winner(found: tuple) -> None:
    _, _, _, result = found
    program, command, *words = shlex.split(result.command)
    assert (program, command) == ("noiserobust", "train")
    assert read_command(Train, words, "train").settings == result.winner


def test_command_has_every_kind_of_setting() -> None:
    settings = TrainSettings(
        method="rwp:gaussian(0.1),schedule=quadratic(1.0)",
        exclude=("head.*", "first.*"),
        weight_clip=2.5,
        channels_last=False,
        drop_last=True,
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 2.0, 3.0),
    )
    words = shlex.split(command_of(settings))[2:]
    assert read_command(Train, words, "train").settings == settings


def test_verdict_says_when_nothing_is_shown(found: tuple) -> None:
    *_, result = found
    sign = result.difference["low"].iloc[0]
    assert ("though not shown to be better" in result.table()) == (sign <= 0)


def test_default_candidates_are_rules_of_the_noise_at_hand() -> None:
    base = TrainSettings(select_noise="laplace:0.03")
    labels = [one.label for one in candidates_for(base)]
    assert len(set(labels)) == len(labels) >= 8
    assert "plain" in labels
    assert "rwp:laplace(0.03)" in labels
    sums = TrainSettings(select_noise="gaussian:0.02+laplace:0.01")
    assert any(str(one.method).startswith("rwp:") for one in candidates_for(sums))


def test_the_best_is_tried_with_a_clean_teacher_where_one_can_teach() -> None:
    best = TrainSettings(method="rwp:gaussian(0.1)", weight_clip=1.25)
    assert taught(best) == replace(best, teacher="plain", teacher_weight=0.9)
    assert taught(replace(best, initial="somewhere")).teacher == "initial"
    assert taught(TrainSettings()) is taught(replace(best, teacher="other")) is None
    assert taught(replace(best, task="regression")) is None


def test_a_default_search_ends_with_a_teacher(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = TrainSettings(epochs=1, batch_size=256, select_draws=1)
    few = [replace(base, method=one) for one in ("rwp:gaussian(0.1)", "sam:0.05")]
    monkeypatch.setattr("noiserobust.sweep.recommendation.candidates_for", lambda base: few)
    result = recommend("gaussian:0.1", base, copies=2, draws=2, out=tmp_path)
    last = result.search[result.search["rung"] == 2]
    assert len(result.search) == 4
    assert last["method"].str.endswith("distilled 0.9 tau 2").sum() == 1
    assert list(last["score"]) == sorted(last["score"], reverse=True)  # the mean over the copies, on held-out data
    assert result.winner.label == last["method"].iloc[0]
    assert last["passes"].max() - last["passes"].min() == pytest.approx(CHOOSING * 4 / 3)
    copies = [read_checkpoint(path).about["log"]["perturbed_accuracy"] for path in _copies(tmp_path, result.winner)]
    assert last["score"].iloc[0] == pytest.approx(sum(copies) / CHOOSING)
    assert {*result.rows["replicate"]} == {1, 2}


def _copies(folder: Path, settings: TrainSettings) -> list[Path]:
    return [Training(replace(settings, seed=seed), folder / "runs").result for seed in (0, 3, 4)]


def test_measured_chips_are_searched_under_their_rms_error(tmp_path) -> None:
    run = fit(TrainSettings(epochs=1, batch_size=256, select_on="none"), tmp_path / "runs")
    model, noise = run.network, NoiseModel.parse("gaussian:0.1")
    noisy, chips = NoisyWeights(model), tmp_path / "chips"
    chips.mkdir()
    for chip in range(4):
        with noisy.perturbed(noise, Stream(0, "made", chip)):
            # A gain of 0.8 stands for drift, which is no error of the programming.
            held = {weight.name: 0.8 * weight.value().numpy() for weight in noisy.weights}
        np.savez(chips / f"{chip}.npz", **held)
    base = TrainSettings(epochs=1, batch_size=256, initial=str(run.checkpoint), select_draws=1)
    gaussian = equivalent(NoiseModel.parse(f"chips:{chips}"), base)
    assert gaussian.strength == pytest.approx(0.08, rel=0.03)
    vary = {"method": ["plain", "sam:0.1"]}
    result = recommend(f"chips:{chips}", base, vary, copies=2, draws=2, out=tmp_path / "search")
    assert f"searched under {gaussian}" in result.table()
    assert AS_GIVEN in set(result.rows["method"])
    with pytest.raises(UserError, match="give --initial"):
        recommend(f"chips:{chips}", replace(base, initial=None), vary, out=tmp_path / "search")


def test_wrong_searches_are_one_clear_line(tmp_path) -> None:
    with pytest.raises(UserError, match="copies >= 2"):
        recommend(NOISE, copies=1, out=tmp_path)
    with pytest.raises(UserError, match="select_on validation or test"):
        recommend(NOISE, TrainSettings(select_on="none"), out=tmp_path)
    with pytest.raises(UserError, match=r"budget of at least .* passes"):
        recommend(NOISE, TrainSettings(epochs=2), budget=1, out=tmp_path)
    with pytest.raises(UserError, match="at least two candidates"):
        recommend(NOISE, TrainSettings(epochs=1, batch_size=256), {"method": ["plain"]}, out=tmp_path)


def test_trial_is_worth_what_its_task_says(tmp_path) -> None:
    trial = Trial(Training(TrainSettings(epochs=1, batch_size=256, select_draws=1), tmp_path / "runs"))
    trial.run()
    assert trial.merit == trial.score > 0
    assert trial.result.parent == tmp_path / "trials"
    one = halve([trial.training.settings], [Rung(1, 1)], tmp_path)
    assert one["score"].tolist() == [trial.score]
    assert torch.isfinite(torch.tensor(trial.score))


@pytest.mark.parametrize(
    "text",
    [
        *('{"score": "x"}', "[]", '{"score": NaN}', '{"score": true}', "{}", "", "\xff", '{"score": [1]}', "[" * 1000),
        *('{"score": 0.9, "sha256": "0"}', '{"score": 0.5, "other": 1}', '{"score": 1e999}', " " * 17_000_000),
    ],
    ids=lambda text: text[:20],
)
def test_a_damaged_score_is_set_aside_and_read_from_its_run_again(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    trial = Trial(Training(TrainSettings(model="digits:8", epochs=1, select_draws=1), tmp_path / "runs"))
    compute([trial])
    score = trial.score
    trial.result.write_bytes(text.encode("latin-1"))
    compute([trial])
    assert trial.score == score
    assert trial.result.with_name(f"{trial.result.name}.corrupt").exists()
    assert "read from the run again" in caplog.text


def test_a_run_without_the_score_is_one_line(tmp_path: Path) -> None:
    trial = Trial(Training(TrainSettings(model="digits:8", epochs=1, select_draws=1), tmp_path / "runs"))
    trial.run()
    stored = read_checkpoint(trial.training.result)
    for log in ({}, {"perturbed_accuracy": "x"}, {"perturbed_accuracy": float("nan")}):
        save_checkpoint(trial.training.result, stored.weights, {**stored.about, "log": log})
        with pytest.raises(UserError, match="expected a run whose log says perturbed_accuracy"):
            trial.run()


def test_a_plain_teacher_is_trained_in_the_passes_of_an_epoch() -> None:
    plain = TrainSettings()
    assert epoch_cost(plain) == 1
    assert epoch_cost(replace(plain, method="sam:0.1")) == 2
    assert epoch_cost(replace(plain, teacher="plain")) == pytest.approx(2 + 1 / 3)
    assert epoch_cost(replace(plain, teacher="a/checkpoint")) == pytest.approx(1 + 1 / 3)
