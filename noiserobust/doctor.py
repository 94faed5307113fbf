"""Whether noiserobust can work on this machine: versions, devices, room, and a self-test of two seconds."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from noiserobust.memory import keep_memory

PACKAGES = ("noiserobust", "torch", "torchvision", "numpy", "scipy", "pandas", "pyarrow", "safetensors", "scikit-learn")
"""What is always needed."""
OPTIONAL = {"aihwkit": "the full chip and its tiles", "ray": "sweeps on several machines"}
"""What some commands need, and for what."""
INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx512f", "avx2")
LEAST_MEMORY, LEAST_DISK = 2.0, 1.0  # GiB
KNOWN_DRAW = (2.0644, -1.2515, -0.7569)
"""First numbers of the stream (0, "doctor"), which are the same on every CPU."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``remedy`` is empty where all is well."""

    name: str
    found: str
    remedy: str = ""
    serious: bool = True
    """Whether the remedy is needed, not only useful."""


def examine(folder: Path = Path()) -> Iterator[Finding]:
    """Look at everything, one finding after the other; ``folder`` is where results would lie."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        version = _version(package)
        yield Finding(package, version or "not installed", "" if version else f"pip install {package}")
    for package, purpose in OPTIONAL.items():
        yield _optional(package, purpose)
    yield _cpu()
    yield _accelerator()
    yield _memory()
    yield Finding("free memory", keep_memory())
    yield _disk(folder)
    for name, test in TESTS.items():
        try:
            found, remedy = test(), ""
        except Exception as error:  # whatever is wrong here is what a person asks about
            found = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
            remedy = "reinstall noiserobust and torch in a new environment; if it stays, please report this line"
        yield Finding(name, found, remedy)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _optional(package: str, purpose: str) -> Finding:
    version = _version(package)
    if not version:
        return Finding(package, f"not installed ({purpose})")
    # In a process of its own: a compiled part that does not match torch can end the one that loads it.
    module = "aihwkit.simulator.rpu_base" if package == "aihwkit" else package
    loaded = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    if loaded.returncode == 0:
        return Finding(package, version)
    last = (loaded.stderr.strip().splitlines() or [f"ended with code {loaded.returncode}"])[-1]
    remedy = f"install the versions that go together: aihwkit 1.1.0 with torch 2.11, or do without ({purpose})"
    return Finding(package, f"{version}, which does not load: {last[:100]}", remedy, serious=False)


def _cpu() -> Finding:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().partition("flags")[2].partition("\n")[0].split()) if info.is_file() else set()
    known = [name for name in INSTRUCTIONS if name in flags]
    return Finding(
        "cpu", f"{cores} cores, {torch.get_num_threads()} threads, {', '.join(known) or 'no vector sets known'}"
    )


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("cuda", ", ".join(cards))
    if shutil.which("nvidia-smi"):
        remedy = f"torch {torch.__version__} does not see the card: install a build of torch for its driver"
        return Finding("cuda", "a driver, but no device", remedy, serious=False)
    return Finding("cuda", "none; --device cpu is used")


def _memory() -> Finding:
    info = Path("/proc/meminfo")
    if not info.is_file():
        return Finding("memory", "not known on this system")
    free = int(info.read_text().partition("MemAvailable:")[2].split()[0]) / 2**20
    remedy = "" if free >= LEAST_MEMORY else "close other programs, or give --batch-size a smaller number"
    return Finding("memory", f"{free:.1f} GiB free", remedy)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 2**30
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding("disk", f"{folder.resolve()} cannot be written: {error.strerror}", "work in another folder")
    return Finding("disk", f"{free:.1f} GiB free", "" if free >= LEAST_DISK else "make room, or work in another folder")


def _draws() -> str:
    import torch

    from noiserobust.rng import Stream

    drawn = Stream(0, "doctor").normal((3,))
    torch.testing.assert_close(drawn, torch.tensor(KNOWN_DRAW, dtype=drawn.dtype), rtol=0, atol=1e-3)
    return "draws are those of every other machine"


def _restored() -> str:
    import torch

    from noiserobust.analog.noisy import perturbed
    from noiserobust.models import DigitsNet

    model = DigitsNet().build(1, 10).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with perturbed(model, "gaussian:0.1", seed=0):
        noisy = dict(model.named_parameters())["head.weight"].clone()
    if torch.equal(noisy, before["head.weight"]):
        raise RuntimeError("noise does not reach the weights")
    if not all(torch.equal(value, before[name]) for name, value in model.state_dict().items()):
        raise RuntimeError("weights are not as they were after noise")
    return "noise reaches the weights, and every bit of them is back afterwards"


def _trained() -> str:
    from noiserobust.evaluation import evaluate
    from noiserobust.training import TrainSettings, fit

    with tempfile.TemporaryDirectory() as folder:
        run = fit(TrainSettings(epochs=4, batch_size=64, select_on="none", method="rwp:gaussian(0.05)"), folder)
        rows = evaluate(run.checkpoint, None, "gaussian:0.02", 2).rows
    accuracy = rows[rows["metric"] == "accuracy"]["value"].mean()
    if accuracy < 50:  # 10 is chance
        raise RuntimeError(f"four epochs on digits reach {accuracy:.0f} %")
    return f"four epochs on digits reach {accuracy:.0f} %"


TESTS: dict[str, Callable[[], str]] = {"random numbers": _draws, "noise": _restored, "training": _trained}
