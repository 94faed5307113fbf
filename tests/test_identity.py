"""Which network a stored row belongs to: its digest, and the answer that is compared before a row is taken."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from noiserobust import Compute, Stream, evaluate
from noiserobust.evaluation.landscapes import landscape
from noiserobust.evaluation.measure_minima import sharpness
from noiserobust.rng import seeded
from noiserobust.storage.identity import answer, network_digest, same_answer

DATA = Stream(0, "x").normal((60, 6)), torch.arange(60) % 3
NOISE = "gaussian:0.1"


class Net(nn.Module):
    """A network with everything that a digest may overlook."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(Stream(0, "net")):
            self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        self.register_buffer("shift", torch.zeros(3), persistent=False)
        self.factor = torch.ones(3)
        self.factors = {"all": [torch.ones(3)]}
        self.slope = 1.0
        self.activation: Callable[[Tensor], Tensor] = torch.relu
        self._hidden = torch.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.layers(x)) * self.slope + self.shift
        return y * self.factor * self.factors["all"][0] * self._hidden


def hooked(net: Net) -> None:
    net.layers[2].register_forward_hook(lambda module, inputs, output: -output)


def patched(net: Net) -> None:
    forward = net.layers.forward
    net.layers.forward = lambda x: forward(2 * x)  # type: ignore[method-assign]


def activated(net: Net) -> None:
    net.activation = torch.tanh


def hidden(net: Net) -> None:
    net._hidden = torch.tensor([1.0, 2.0, 3.0])


def buffered(net: Net) -> None:
    net.shift[1] = 1.0


def attributed(net: Net) -> None:
    net.factor = torch.tensor([1.0, 2.0, 3.0])


def attributed_within(net: Net) -> None:
    net.factors["all"][0][2] = 5.0


def sloped(net: Net) -> None:
    net.slope = 3.0


def weighted(net: Net) -> None:
    net.layers[0].weight.data.view(torch.int32)[0, 0] ^= 1


NAMED = [buffered, attributed, attributed_within, sloped, weighted]
ANSWERED = [hooked, patched, activated, hidden]


def loss(net: nn.Module, out: Path | None = None, **options: object) -> list[float]:
    rows = evaluate(net, DATA, NOISE, draws=2, out=out, **options).rows  # type: ignore[arg-type]
    return rows[rows["metric"] == "loss"]["value"].tolist()


class TestDigest:
    @pytest.mark.parametrize("change", NAMED)
    def test_names_what_a_network_is_made_of(self, change: Callable[[Net], None]) -> None:
        net = Net()
        before = network_digest(net)
        assert before == network_digest(Net()) == network_digest(nn.DataParallel(net))
        change(net)
        assert network_digest(net) != before

    @pytest.mark.parametrize("change", ANSWERED)
    def test_does_not_look_at_code(self, change: Callable[[Net], None]) -> None:
        net = Net()
        before = network_digest(net)
        change(net)
        assert network_digest(net) == before


class TestStoredRows:
    @pytest.mark.parametrize("change", [*NAMED[:-1], *ANSWERED])
    def test_are_not_those_of_a_changed_network(self, change: Callable[[Net], None], tmp_path: Path) -> None:
        net, out = Net(), tmp_path / "rows.parquet"
        before = loss(net, out)
        change(net)
        after = loss(net, out)
        assert after == loss(net) != before

    def test_of_a_hooked_network_are_replaced(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """And taken back by the network without the hook, unit by unit."""
        with seeded(Stream(0, "net")):
            net, out = nn.Sequential(nn.Linear(6, 3)), tmp_path / "rows.parquet"
        before = loss(net, out)
        assert loss(net, out) == before
        assert not caplog.records
        handle = net[0].register_forward_hook(lambda module, inputs, output: -output)
        after = loss(net, out)
        assert after == loss(net) != before
        (note,) = caplog.messages
        assert "outputs are not those with which its rows in" in note
        assert "\n" not in note
        assert loss(net, out) == after
        handle.remove()
        assert loss(net, out) == before

    @pytest.mark.parametrize("question", [sharpness, landscape])
    def test_of_other_questions_neither(self, question: Callable[..., object], tmp_path: Path) -> None:
        def asked(out: Path | None) -> list[float]:
            options = {"measures": ["loss"]} if question is sharpness else {"points": 3}
            result = question(net, DATA, out=out, **options)
            return list(getattr(result, "rows", result)["value"])  # type: ignore[call-overload]

        net, out = Net(), tmp_path / "rows.parquet"
        before = asked(out)
        hooked(net)
        assert asked(out) == asked(None) != before

    def test_of_a_network_that_draws_are_its_own(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        class Sampling(Net):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(nn.functional.dropout(x, 0.5))

        net, out = Sampling(), tmp_path / "rows.parquet"
        state = torch.get_rng_state()
        assert loss(net, out) == loss(net, out) == loss(net, None)
        assert not caplog.messages
        assert torch.equal(torch.get_rng_state(), state)

    def test_of_a_network_that_draws_elsewhere_are_never_taken(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Sampling(Net):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) * (1 + random.random())

        net, out = Sampling(), tmp_path / "rows.parquet"
        first, second = loss(net, out), loss(net, out)
        assert set(first).isdisjoint(second)
        (note,) = caplog.messages
        assert "outputs vary from pass to pass" in note

    def test_do_not_depend_on_how_it_is_computed(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        net, out, threads = Net(), tmp_path / "rows.parquet", torch.get_num_threads()
        first = loss(net, out)
        try:
            torch.set_num_threads(2 if threads == 1 else 1)
            assert loss(net, out, compute=Compute(batch_size=7, channels_last=False)) == first
        finally:
            torch.set_num_threads(threads)
        assert not caplog.records


class TestAnswer:
    def test_asking_changes_nothing(self) -> None:
        class Learning(nn.BatchNorm1d):
            """Of the kind of an observer, which learns in eval mode too."""

            def forward(self, x: Tensor) -> Tensor:
                self.running_mean.add_(x.mean(0))
                torch.rand(1)
                return super().forward(x)

        net = nn.Sequential(Learning(6), nn.Dropout(0.5)).train()
        before, state = network_digest(net), torch.random.get_rng_state()
        answer(net, DATA[0])
        assert network_digest(net) == before
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(module.training for module in net.modules())

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_agrees_to_rounding_and_no_further(self, precision: str) -> None:
        net = Net().eval()
        one = answer(net, DATA[0], precision)  # type: ignore[arg-type]
        assert len(one.split()) == 4
        net.slope = 1.00001
        assert same_answer(one, answer(net, DATA[0], precision), precision)  # type: ignore[arg-type]
        net.slope = 1.1
        assert not same_answer(one, answer(net, DATA[0], precision), precision)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("1 2 3 4", "1 2 3 4.001", True),
            ("1 2 3 4", "1 2 3 4.1", False),
            ("0 0 0 0", "0 0 0 1e-30", False),
            ("nan nan nan nan", "nan nan nan nan", True),
            ("nan 1 2 3", "nan 1 2 3.0001", True),
            ("nan 1 2 3", "0 1 2 3", False),
            ("inf 1 2 3", "inf 1 2 4", False),
            ("inf 1 2 3", "-inf 1 2 3", False),
            ("varies", "varies", False),
            ("", "", True),
            ("", "1 2 3 4", False),
        ],
    )
    def test_comparison(self, one: str, other: str, same: bool) -> None:
        assert same_answer(one, other) is same_answer(other, one) is same

    def test_of_many_outputs_is_short(self) -> None:
        with seeded(Stream(0, "net")):
            net = nn.Linear(6, 20_000)
        assert len(answer(net, DATA[0])) < 60

    def test_of_a_network_for_one_size_of_batch(self) -> None:
        class Fixed(Net):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x.view(60, 6))

        net = Fixed()
        one = answer(net, DATA[0])
        assert len(one.split()) == 4
        hooked(net)
        assert not same_answer(one, answer(net, DATA[0]))

    def test_of_what_gives_none(self) -> None:
        assert answer(nn.Linear(5, 3), DATA[0]) == ""
        assert len(answer(nn.LSTM(6, 3), DATA[0]).split()) == 4  # a tuple is answered by its first tensor
