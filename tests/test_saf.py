"""SAF's memory: what is read was recorded exactly E~ epochs earlier for that very sample. (Ranks: ddp_worker.py.)"""

from __future__ import annotations

import pytest
import torch
from methods import batch, committed, normed_net, same_bits, sgd, smooth_net
from torch import Tensor, nn

from noiserobust.data import Batch, Batches, Dataset
from noiserobust.errors import UserError
from noiserobust.rng import Stream
from noiserobust.tasks import Task
from noiserobust.training import SAF, Engine, Method, Progress
from noiserobust.training.rules import saf


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("back", [1, 2, 3])
def test_reads_what_that_sample_was_given_e_epochs_ago(back: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty samples, re-shuffled in every epoch, the last batch smaller: a diary kept here holds the truth."""
    images = Stream(1, "test").normal((20, 1, 5, 5))
    loader = Batches(Dataset(images, torch.arange(20) % 3), 8, stream=Stream(0, "test"))
    read: list[tuple[Tensor, Tensor]] = []
    original = saf.penalty

    def spied(task: Task, past: list[Tensor], tau: float, factors: list[Tensor]) -> object:
        read.append((torch.cat(past), torch.cat(factors)))
        return original(task, past, tau, factors)

    monkeypatch.setattr(saf, "penalty", spied)
    engine, diary, orders = sgd(normed_net()), {}, []
    for epoch in range(7):
        order = []
        for index, one in enumerate(loader.epoch(epoch)):
            at = Progress(3 * epoch + index, 21, epoch, 7)
            read.clear()
            out = SAF(start=2, back=back).step(engine, one.split(parts) if parts > 1 else one, at)
            assert one.indices is not None
            if epoch >= 2:
                past, factors = read[0]
                known = [diary.get((epoch - back, i)) for i in one.indices.tolist()]
                assert torch.equal(factors > 0, torch.tensor([k is not None for k in known]))
                for row, expected in zip(past, known, strict=True):
                    assert expected is None or torch.equal(row, expected)
            else:
                assert not read
            diary |= {(epoch, i): row for i, row in zip(one.indices.tolist(), out.logits, strict=True)}
            order += one.indices.tolist()
        orders.append(order)
    assert len(set(map(tuple, orders))) == 7


def test_a_sample_missed_then_has_no_term() -> None:
    """Seen in epoch 0 only; in epoch 2 the slot still holds it, but what is asked for is epoch 1 (back 1) or 0 (2)."""
    for back, active in ((1, False), (2, True)):
        engine = sgd(normed_net())
        for epoch in (0, 2):
            method = SAF(start=0, back=back)
            gradients = committed(str(method), engine, batch(), Progress(epoch, 3, epoch, 3))
        plain = sgd(normed_net())
        for epoch in (0, 2):
            reference = committed("plain", plain, batch(), Progress(epoch, 3, epoch, 3))
        assert same_bits(gradients, reference) != active


def test_an_overflow_is_not_remembered() -> None:
    engine = sgd(smooth_net().float(), scaler=torch.amp.GradScaler("cpu"))
    spoiled = batch()
    spoiled.inputs[3] = float("inf")
    SAF(start=0, back=1).step(engine, spoiled, Progress(0, 2, 0, 2))
    assert engine.memory["saf"]["logits"].isfinite().all()
    SAF(start=0, back=1).step(engine, batch(), Progress(1, 2, 1, 2))
    assert all(p.isfinite().all() for p in engine.parameters)


def test_its_size_is_told_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    """E~ x N x classes float32 numbers, and one whole number per slot and sample to know when it was written."""
    engine = Engine(model := smooth_net().float(), torch.optim.SGD(model.parameters()), samples=50_000, classes=100)
    told = Method.parse("rst:sam(0.1)").prepare(engine), Method.parse("saf:back=3").prepare(engine)
    logits = engine.memory["saf"]["logits"]
    assert logits.shape == (3, 50_000, 100)
    assert logits.dtype == torch.float32
    assert told == ("", "saf: remembers 3 epochs x 50,000 samples x 100 classes: 57.8 MiB")
    assert capsys.readouterr().out == ""
    assert engine.passes == {"forward": 0, "backward": 0}


class TestRefusals:
    def refused(self, data: Batch, expected: str, engine: Engine | None = None) -> None:
        with pytest.raises(UserError, match=expected) as caught:
            SAF().step(engine or sgd(normed_net()), data, Progress(0, 1))
        assert "\n" not in str(caught.value)

    def test_mixup(self) -> None:
        data = batch()
        mixed = torch.nn.functional.one_hot(data.labels, 3).float() * 0.7 + 0.1
        self.refused(Batch(data.inputs, mixed, data.indices), "mixup and cutmix")
        self.refused(Batch(data.inputs, data.labels.float(), data.indices), "mixup and cutmix")

    def test_no_indices(self) -> None:
        self.refused(Batch(batch().inputs, batch().labels), r"indices, got none; use Batch\(x, y, indices\)")

    def test_unknown_size(self) -> None:
        model = normed_net()
        bare = Engine(model, torch.optim.SGD(model.parameters()))
        self.refused(batch(), r"use Engine\(..., samples=N, classes=C\)", bare)


@pytest.mark.parametrize(("task", "hint"), [("tokens", "use mesa"), ("regression", "use sam or rwp")])
def test_other_tasks_are_told_what_there_is_for_them(task: str, hint: str) -> None:
    model, labels = nn.Linear(4, 3), torch.zeros(5, 2, dtype=torch.long) if task == "tokens" else torch.zeros(5, 3)
    engine = Engine(model, torch.optim.SGD(model.parameters(), 0.1), task=task, samples=5, classes=3)
    with pytest.raises(UserError, match=hint):
        SAF().step(engine, Batch(torch.randn(5, 4), labels, torch.arange(5)), Progress(0, 9))
