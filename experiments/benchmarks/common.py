"""What the benchmarks share: cases timed in turn in one process, ratios within a round, rows that name the machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import torch

import noiserobust
from noiserobust.report.table import as_markdown
from noiserobust.storage.files import write_atomically

RESULTS = Path(__file__).parents[2] / "docs" / "results"
FIGURES = Path(__file__).parents[2] / "figures"


def machine(device: torch.device | str = "cpu", packages: Sequence[str] = ()) -> dict[str, object]:
    """What a figure holds for: date, processor or GPU, threads, versions of Python, torch, us and ``packages``."""
    device = torch.device(device)
    about: dict[str, object] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "noiserobust": noiserobust.__version__.partition("+")[0],  # behind it a commit: that of the installation
    }
    for package in packages:
        try:
            about[package] = version(package)
        except PackageNotFoundError:
            about[package] = "none"
    return about


class Calm:
    """Whether nothing else computes here, by a rule that is fixed before anything is timed.

    A few products of small matrices, which take about 10 ms, are timed again and again. The machine is calm while they
    take at most ``LIMIT`` times as long as at their best so far: the best of five, when our own threads have had time
    to go to sleep. (Until 2026-11-28 one, at once: on two threads four of five rounds failed it in which a plain step
    took the same to 2 %.)
    """

    LIMIT, PAUSE = 1.1, 0.3

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.asked = torch.device(device).type == "cpu"  # what a GPU does, other processes' work does not show
        self._matrix = torch.ones(256, 256) / 256
        self.best = min((self._spin() for _ in range(20)), default=0.0) if self.asked else 0.0

    def now(self) -> bool:
        """Whether it is calm."""
        if not self.asked:
            return True
        time.sleep(self.PAUSE)
        seconds = min(self._spin() for _ in range(5))
        self.best = min(self.best, seconds)
        return seconds <= self.LIMIT * self.best

    def waited(self, patience: float = 20.0) -> bool:
        """Whether it is calm, or became so within ``patience`` seconds."""
        end = time.perf_counter() + patience
        while not self.now():
            if time.perf_counter() > end:
                return False
        return True

    def _spin(self) -> float:
        start = time.perf_counter()
        for _ in range(40):
            self._matrix @ self._matrix
        return time.perf_counter() - start


def timed(
    action: Callable[[], object],
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of one call, until the device has done it."""
    _wait(device)
    start = clock()
    action()
    _wait(device)
    return clock() - start


def in_turn(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device | str = "cpu",
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    baseline: str | None = None,
) -> Iterator[tuple[int, str, float, bool]]:
    """(round, case, seconds, calm): every case once a round, each round beginning with another one. The ``baseline``,
    by which all are divided, is timed before every third: a single one would put its own chance into all ratios.

    So a machine that slows down for a while slows all cases of a round, and ratios within the round hold. A round waits
    for a calm machine, and says whether it was :class:`Calm` before and after it; a busy one's rows stay in the file
    and out of the ratios. ``clock`` may be the processor's time, which other programs' turns are not in.
    """
    for case in cases.values():
        for _ in range(warm_up):
            case()
    names = [name for name in cases if name != baseline]
    calm = Calm(device)
    for number in range(rounds):
        shift = number % len(names)
        before = calm.waited()
        order = names[shift:] + names[:shift]
        if baseline is not None:
            order = [one for start in range(0, len(order), 3) for one in (baseline, *order[start : start + 3])]
        taken = [(name, timed(cases[name], device, clock)) for name in order]
        undisturbed = before and calm.now()
        yield from ((number, name, seconds, undisturbed) for name, seconds in taken)


def ratios(rows: pd.DataFrame, baseline: str, by: Sequence[str] = ("run", "round")) -> pd.DataFrame:
    """Of every case: median seconds, and the median and quartiles of its ratio to ``baseline`` of the same round, the
    median of those where there are several.

    ``rows`` have the columns case, seconds and ``by``, which together say what a round is. Rounds that were not
    ``calm`` are left out where some were; rows from before there was such a column count as calm.
    """
    if "calm" in rows and (calm := rows["calm"].fillna(True).astype(bool)).any():
        rows = rows[calm]
    base = rows[rows["case"] == baseline].groupby(list(by))["seconds"].median()
    lines = []
    for case, group in rows.groupby("case", sort=False):
        seconds = group.set_index(list(by))["seconds"]
        ratio = (seconds / base.reindex(seconds.index)).dropna()
        low, median, high = ratio.quantile([0.25, 0.5, 0.75])
        quartiles = {"ratio": median, "q1": low, "q3": high, "rounds": ratio.index.nunique()}
        lines.append({"case": case, "seconds": seconds.median(), **quartiles})
    return pd.DataFrame(lines)


def add_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Append ``rows`` to a CSV file as its next ``run``; all rows that it then has."""
    old = pd.read_csv(path) if path.exists() else pd.DataFrame({"run": []})
    new = pd.DataFrame(rows)
    new.insert(0, "run", int(old["run"].max()) + 1 if len(old) else 0)
    table = pd.concat([old, new], ignore_index=True) if len(old) else new
    write_atomically(path, lambda file: table.to_csv(file, index=False))
    return table


def markdown(table: pd.DataFrame) -> str:
    """``table`` as a page shows it."""
    return as_markdown([[*map(str, table.columns)], *([*map(str, row)] for row in table.to_numpy())])


def _processor() -> str:
    """Name, generation and bf16 instructions: virtual machines call processors of different speed by one name."""
    path = Path("/proc/cpuinfo")
    lines = [line.split(":") for line in path.read_text().splitlines() if ":" in line] if path.exists() else []
    about = {key.strip(): value.strip() for key, value in lines}
    count = sum(key.strip() == "processor" for key, _ in lines)
    if "model name" not in about:
        return platform.processor() or platform.machine()
    bf16 = next((name for name in ("amx_bf16", "avx512_bf16") if name in about["flags"].split()), "no bf16")
    return f"{about['model name']} (family {about['cpu family']}, model {about['model']}, {bf16}) x {count}"


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
