"""The values of tensors, kept bit for bit while they are moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noiserobust.analog.openings import Opening
from noiserobust.noise.sharded import local


class Backup:
    """Exact copies of tensors while they are moved, in memory that is kept for re-use."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)
        self._saved: list[Tensor] | None = None

    def save(self, opening: Opening) -> None:
        """Save now; every bit is put back when ``opening`` closes.

        Restoring is copying: subtracting what was added would leave 91 % of float32 weights changed after 1,000 times.
        """
        if not self.tensors:
            return
        # Looked up now: model.to(...) gives parameters other memory.
        live = [local(tensor.detach()) for tensor in self.tensors]
        # Taken away meanwhile, so that a nested use saves somewhere else.
        saved, self._saved = self._saved, None
        if saved is None or any(s.dtype != t.dtype or s.device != t.device for s, t in zip(saved, live, strict=True)):
            saved = [torch.empty_like(tensor) for tensor in live]
        with torch.no_grad():
            torch._foreach_copy_(saved, live)

        def restore() -> None:
            with torch.no_grad():
                torch._foreach_copy_(live, saved)
                for tensor, before, value in zip(self.tensors, live, saved, strict=True):
                    now = local(tensor.detach())
                    if now.data_ptr() != before.data_ptr():  # model.double() and the like moved the noisy values
                        now.copy_(value)
            torch.clear_autocast_cache()
            self._saved = saved

        opening.callback(restore)
        # An autocast that is open around us keeps low-precision copies of the weights: they must not outlive a move.
        torch.clear_autocast_cache()
