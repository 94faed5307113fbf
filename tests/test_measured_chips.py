"""Measured chips: what a folder of conductances says is what the network computes with; wrong files are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import TINY, refused
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from noiserobust import evaluate, perturbed
from noiserobust.cli import main
from noiserobust.errors import UserError
from noiserobust.evaluation import Chips, program, yields
from noiserobust.noise import MeasuredChips, NoiseModel
from noiserobust.training import RWP, Engine, Progress

torch.manual_seed(0)
NET = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10))
DATA = torch.randn(24, 1, 8, 8), torch.randint(10, (24,))
TIMES = ["25s", "1d"]
PROFILES = (
    "pcm",
    "pcm:reference=tile,rows=64,columns=5",
    "pcm:mapping=offset",
    "pcm:mapping=offset-column",
    "pcm:mapping=offset-column,reference=tile,rows=20,columns=4",
    "hermes:reference=layer",
    "quantize:4+reram_cmo",
)


def weights(noise: str, draw: int = 0, **options: Any) -> list[Tensor]:
    """The analog weights of NET under a draw."""
    with perturbed(NET, noise, draw=draw, **options):
        return [layer.weight.detach().clone() for layer in (NET[0], NET[3])]


def write(folder: Path, chips: int = 3, **changes: Any) -> str:
    """A folder of chips as a person would write them, in numpy."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for chip in range(chips):
        arrays: dict[str, Any] = {"g_max": 25.0, "g_min": 0.1, "unit": "µS"}
        for name, shape in (("0.weight", (6, 1, 3, 3)), ("3.weight", (10, 216))):
            arrays |= {f"{name}/{place}": generator.uniform(0.1, 25, shape) for place in ("g_plus", "g_minus")}
        arrays |= changes
        np.savez(folder / f"chip{chip}.npz", **{name: value for name, value in arrays.items() if value is not None})
    return f"chips:{folder}"


@pytest.mark.filterwarnings("ignore:.*deviates by more than its own size")
class TestRead:
    def test_weights_are_those_of_the_conductances(self, tmp_path: Path) -> None:
        noise = write(tmp_path)
        for chip in range(3):
            held = np.load(tmp_path / f"chip{chip}.npz")
            for name, layer, seen in zip(("0.weight", "3.weight"), (NET[0], NET[3]), weights(noise, chip), strict=True):
                scale = (
                    layer.weight.detach().double().flatten(1).abs().amax(1).view(-1, *[1] * (layer.weight.dim() - 1))
                )
                expected = scale * torch.from_numpy(held[f"{name}/g_plus"] - held[f"{name}/g_minus"]) / 24.9
                torch.testing.assert_close(seen.double(), expected, rtol=0, atol=2e-7)

    def test_signed_weights_crossbars_scale_and_times(self, tmp_path: Path) -> None:
        """The first layer as weights, the second in four crossbars of another cut, both measured twice."""
        w = {t: [torch.randn_like(NET[0].weight), torch.randn_like(NET[3].weight)] for t in (0, 1)}
        arrays: dict[str, Tensor] = {"times": torch.tensor([20.0, 3600.0]), "3.weight/g_max": torch.tensor(2.0)}
        arrays["0.weight"] = torch.stack([w[t][0] for t in (0, 1)])
        arrays["3.weight/scale"] = torch.full((10, 1), 0.5)
        g = torch.stack([w[t][1] for t in (0, 1)]).mT  # (times, inputs, outputs): w = scale (g+ - g-) / g_max
        for i, rows in enumerate((slice(0, 100), slice(100, 216))):
            for j, columns in enumerate((slice(0, 4), slice(4, 10))):
                for place, sign in (("g_plus", 1), ("g_minus", -1)):
                    part = (4 * sign * g[:, rows, columns]).clamp(min=0)
                    arrays[f"3.weight/crossbar_{i}_{j}/{place}"] = part.contiguous()
        save_file(arrays, tmp_path / "a.safetensors")
        for t, wanted in ((None, w[0]), (20.0, w[0]), (3600.0, w[1])):
            for seen, expected in zip(weights(f"chips:{tmp_path}", t=t), wanted, strict=True):
                torch.testing.assert_close(seen, expected, rtol=0, atol=1e-6)
        with pytest.raises(UserError, match=r"expected a time of .*a.safetensors \(20s, 1h\), got t=1d"):
            weights(f"chips:{tmp_path}", t=86400.0)

    def test_strength_is_that_of_the_deviation(self, tmp_path: Path) -> None:
        noise = write(tmp_path)
        clean = [layer.weight.detach().clone() for layer in (NET[0], NET[3])]
        for one, half, whole in zip(clean, weights(noise + ",strength=0.5"), weights(noise), strict=True):
            torch.testing.assert_close(half, (one + whole) / 2, rtol=0, atol=1e-6)
        assert NoiseModel.parse(noise).scaled(0).is_identity

    def test_patterns_name_some_and_ten_comes_after_nine(self, tmp_path: Path) -> None:
        write(tmp_path, 11)
        ten = weights(f"chips:{tmp_path}/chip10*")
        assert all(map(torch.equal, ten, weights(f"chips:{tmp_path}", 10)))
        assert not torch.equal(ten[0], weights(f"chips:{tmp_path}", 2)[0])

    def test_training_takes_a_chip_for_each_step(self, tmp_path: Path) -> None:
        """The step's gradient is that at the weights of one of the chips, the same for both layers."""
        from noiserobust.data import Batch

        rule = RWP(NoiseModel.parse(write(tmp_path)))
        gradients = []
        for chip in range(3):
            with perturbed(NET, rule.noise, draw=chip):
                loss = nn.functional.cross_entropy(NET(DATA[0]), DATA[1])
                gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*NET.parameters()])]))
        taken = set()
        for step in range(8):
            engine = Engine(NET, torch.optim.SGD(NET.parameters(), lr=1.0))
            before = torch.cat([p.detach().flatten() for p in NET.parameters()])
            state = {name: value.clone() for name, value in NET.state_dict().items()}
            rule.step(engine, Batch(*DATA), Progress(step, 8))
            moved = before - torch.cat([p.detach().flatten() for p in NET.parameters()])
            NET.load_state_dict(state)
            distances = [float((moved - one).norm() / one.norm()) for one in gradients]
            assert min(distances) < 1e-4
            taken.add(distances.index(min(distances)))
        assert len(taken) > 1

    def test_rows_name_the_content_and_not_the_folder(self, tmp_path: Path) -> None:
        write(tmp_path / "one")
        shutil.copytree(tmp_path / "one", tmp_path / "two" / "one")
        first, second = (evaluate(NET, DATA, f"chips:{tmp_path / at}", draws=1).rows.noise for at in ("one", "two/one"))
        assert (
            first.tolist() == second.tolist() == [f"chips:one,digest={MeasuredChips(str(tmp_path / 'one')).digest}"] * 2
        )

    def test_another_networks_chip_is_noticed(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match="may hold another network's weights"):
            weights(write(tmp_path))


class TestRoundTrip:
    @pytest.mark.parametrize("profile", PROFILES)
    def test_simulated_chips_are_the_profiles_draws_and_targets_the_weights(self, profile: str, tmp_path: Path) -> None:
        programming = program(NET, profile, tmp_path, chips=2, times=TIMES, data=DATA)
        chips = Chips(times=TIMES)
        measured = evaluate(NET, DATA, f"chips:{tmp_path}", draws=2, chips=chips).rows
        simulated = evaluate(NET, DATA, profile, draws=2, chips=chips).rows
        assert measured.value.tolist() == simulated.value.tolist()
        wanted = weights("quantize:4") if "quantize" in profile else [NET[0].weight.detach(), NET[3].weight.detach()]
        assert all(map(torch.equal, weights(f"chips:{tmp_path}/targets.safetensors"), wanted))
        crossbars = programming.crossbars
        if "mapping" not in profile and "cmo" not in profile:
            assert (crossbars["devices"] == 2 * crossbars["rows"] * crossbars["columns"]).all()
        written = json.loads((tmp_path / "manifest.json").read_text())
        assert [line["layer"] for line in written["crossbars"]] == crossbars.layer.tolist()

    def test_the_crossbars_are_as_large_as_they_may_be(self, tmp_path: Path) -> None:
        program(NET, "pcm:reference=tile,rows=64,columns=5", tmp_path, data=DATA)
        shapes = {name: tuple(one.shape) for name, one in load_file(tmp_path / "targets.safetensors").items()}
        assert shapes["3.weight/crossbar_3_1/g_plus"] == (54, 5)  # 216 inputs on 4 crossbars, 10 outputs on 2
        assert shapes["0.weight/crossbar_0_1/g_minus"] == (9, 3)
        assert not [name for name in shapes if name.startswith("3.weight/crossbar_4")]

    def test_yields_count_chips(self, tmp_path: Path) -> None:
        program(NET, "pcm", tmp_path, chips=4, data=DATA)
        rows = evaluate(NET, DATA, f"chips:{tmp_path}", draws=4).rows
        assert len(yields(rows, above=5).rows) == 4

    def test_what_cannot_be_programmed_is_said(self, tmp_path: Path) -> None:
        for noise, options, message in (
            ("gaussian:0.1", {}, "expected a device profile"),
            ("pcm:strength=0.5", {}, "strength 1"),
            ("pcm", {"times": ["1d"]}, "beside chips"),
            ("pcm", {"chips": 1, "times": ["1d", "1h"]}, "ascending"),
            ("pcm", {"chips": -1}, "chips >= 0"),
        ):
            with pytest.raises(UserError, match=message):
                program(NET, noise, tmp_path, data=DATA, **options)
        with pytest.raises(UserError, match="expected one network"):
            program([NET, NET], "pcm", tmp_path, data=DATA)
        assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*deviates by more than its own size")
class TestWrongFiles:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"3.weight/g_plus": None, "3.weight/g_minus": None},
                "expected signed weights NAME.* got none of 3.weight",
            ),
            ({"3.weight/g_minus": None}, "got none of 3.weight"),
            ({"3.weight/g_plus": np.ones((216, 10))}, r"with outputs first, \(10, 216\), got \(216, 10\)"),
            ({"g_max": None}, "expected g_max > g_min >= 0.*got g_max=None"),
            ({"g_max": 0.05}, "expected g_max > g_min"),
            ({"g_max": np.ones(3)}, "expected one number"),
            ({"0.weight/g_plus": np.full((6, 1, 3, 3), np.nan)}, "got NaN or inf in 0.weight/g_plus"),
            ({"0.weight/g_plus": np.ones((6, 9), dtype=complex)}, "expected real numbers"),
            ({"0.weight/g_plus": np.array([None] * 54)}, "expected an array of numbers"),
            ({"times": [3.0, 1.0]}, "in ascending order"),
            ({"times": [1.0, 3.0]}, "one part per time"),
            ({"0.weight/scale": np.ones(4)}, "to broadcast to the weight"),
        ],
    )
    def test_they_are_named_in_one_line(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=message) as raised:
            weights(write(tmp_path, 1, **changes))
        assert "\n" not in str(raised.value)

    def test_a_layer_that_a_later_chip_lacks_is_named_before_anything_is_computed(self, tmp_path: Path) -> None:
        noise = write(tmp_path)
        np.savez(tmp_path / "chip9.npz", **{"g_max": 1.0, "0.weight": np.ones((6, 9))})
        with pytest.raises(UserError, match=r"got none of 3.weight in .*chip9.npz, which has 0.weight"):
            weights(noise)

    def test_folders_and_files_that_hold_no_chip(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="expected a folder, or a pattern"):
            weights(f"chips:{tmp_path}/nowhere")
        (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing")
        with pytest.raises(UserError, match="expected a measured chip"):
            MeasuredChips(str(tmp_path))
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(UserError, match=r"expected chips as .npz or .safetensors"):
            MeasuredChips(str(tmp_path / "notes*"))
        with pytest.raises(UserError, match="expected a path without"):
            MeasuredChips("a,b")

    def test_no_more_draws_than_chips_and_changed_content(self, tmp_path: Path) -> None:
        noise = write(tmp_path)
        with pytest.raises(UserError, match="expected at most 3 draws"):
            evaluate(NET, DATA, noise, draws=4)
        known = MeasuredChips(str(tmp_path)).digest
        write(tmp_path, 2, g_max=30.0)
        assert MeasuredChips(str(tmp_path)).digest != known
        with pytest.raises(UserError, match=f"expected .* with the content {'0' * 12}"):
            weights(f"chips:{tmp_path},digest={'0' * 12}")


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", *TINY, "--out", "runs"])
    main(["program", "runs", "--noise", "pcm:reference=tile,rows=64", "--out", "chips", "--chips", "2"])
    shown = capsys.readouterr().out
    assert "crossbars" in shown
    assert "targets.safetensors" in shown
    main(["evaluate", "runs", "--noise", "chips:chips", "--draws", "2", "--images", "20", "--out", "rows.parquet"])
    assert "1 model x 2 draws" in capsys.readouterr().out
    assert "expected a checkpoint" in refused(["program"], capsys)
    assert "at most 2 draws" in refused(["evaluate", "runs", "--noise", "chips:chips", "--out", "more.parquet"], capsys)
