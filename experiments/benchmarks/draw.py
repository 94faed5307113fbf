"""What one draw of an evaluation to a precision costs, part by part: milliseconds of one thread's own time.

    python experiments/benchmarks/draw.py --rounds 40

ResNet-18 of width 16 with random weights, Gaussian noise. Every part is timed once a round, in turn; rows hold medians
and quartiles over the rounds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import tyro
from common import RESULTS, add_rows, machine, markdown
from loops import Setup

from noiserobust.analog.noisy import report_stream
from noiserobust.evaluation import Chips, Compute
from noiserobust.evaluation.evaluated_models import EvaluatedModels
from noiserobust.evaluation.on_chips import Conditions, ModelOnChips
from noiserobust.memory import keep_memory
from noiserobust.noise import Gaussian
from noiserobust.noise.in_place import add_in_place
from noiserobust.tasks.batches import pick

OUT = RESULTS / "speed_draw.csv"


@dataclass
class Draw:
    """Flags of the program."""

    rounds: int = 40
    images: int = 64

    @torch.no_grad()
    def run(self) -> None:
        torch.set_num_threads(1)
        keep_memory()
        setup, noise = Setup(width=16, threads=1), Gaussian(0.1)
        data = setup.data(1000)
        models = EvaluatedModels(
            setup.model().eval(), (data.inputs, data.labels), compute=Compute(channels_last=True, batch_size=50)
        )
        (model,) = models
        chips = ModelOnChips(model, Conditions.of(Chips(), models.data), None, True)
        random, numbers = np.random.default_rng(0), iter(range(10**9))
        weights = [(weight.name, weight.value().clone()) for weight in chips.noisy.weights]
        normals = [torch.empty(value.shape) for _, value in weights]
        generator = torch.Generator()

        def reading() -> None:
            chips.next_chip()
            with chips.reading(noise, report_stream(0, 0, next(numbers)), **chips.readings[0]):
                pass

        def added() -> None:
            stream = report_stream(0, 0, next(numbers))
            add_in_place(noise, [(value, stream.weight(name)) for name, value in weights])

        def passed(images: int, precision: str) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                model.network(data.inputs[:images])

        parts = {
            "a chip programmed, read and restored": reading,
            "of that, noise added in place": added,
            "of that, normal numbers": lambda: [one.normal_(generator=generator) for one in normals],
            "images gathered": lambda: pick(model.batches, random.choice(1000, self.images, replace=False)),
            **{
                f"pass of {count} images, {precision}": lambda count=count, precision=precision: passed(
                    count, precision
                )
                for precision in ("fp32", "bf16")
                for count in (4, self.images)
            },
        }
        taken: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(self.rounds):
            for name, part in parts.items():
                start = time.process_time()
                part()
                taken[name].append(1e3 * (time.process_time() - start))
        rows = []
        for name, values in taken.items():
            low, median, high = np.quantile(values[1:], [0.25, 0.5, 0.75])
            rows.append({"part": name, "ms": median, "q1": low, "q3": high, "images": self.images, **machine()})
        add_rows(OUT, rows)
        print(markdown(pd.DataFrame(rows)[["part", "ms", "q1", "q3"]].round(2)))


if __name__ == "__main__":
    tyro.cli(Draw).run()
