"""Everything that needs an accelerator, in one command: tests on the device, speed, full-width trainings.

    make gpu                                                    # into runs/gpu
    python3 experiments/gpu/run.py --out OUT --images IMAGES.npz --wheels WHEELS --budget 560
    python3 experiments/gpu/run.py --out OUT --device cpu --tiny      # a rehearsal of all of it

It runs from a bare checkout with the machine's own torch, numpy, scipy, pandas, pyarrow and torchvision; wheels of
what else is missing (lazy_loader, safetensors, ...) are installed from a folder, for this command alone.

- ``checks`` (90 s): streams, in-place noise, every noise, every rule in fp32, bf16 and fp16, converters, folding,
  compilation, DDP with one process, a training run.
- ``speed`` (150 s): steps of every rule beside plain ones, whether a step waits for the device, evaluations beside
  bare passes, draws of small networks together.
- ``grid`` (what is left): how many trainings at once are fastest, then the papers' runs at full width.

Each part runs in processes of its own, ends at its time and writes a line of ``OUT/rows.jsonl`` for everything that
ends: ``ok`` says whether it did what it should, ``error`` what it said. A part that fails or hangs is a line, too, and
the next one begins. The same command again does only what is missing or failed, of the same commit and card. Options
that the parts need are in :class:`experiments.gpu.rows.Options`. This file needs nothing but Python itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"checks": 90.0, "speed": 150.0, "grid": 1e9}
"""Parts in their order, and the seconds that each has at most."""
AGAIN = 3
"""Exit code of a part whose device does not answer any more: a new process goes on."""
GRACE = 5.0
"""Seconds that a part may be late, since it looks at the clock between two things only."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="folder of rows.jsonl and log.txt")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gpu-work", help="folder of trainings under way")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a rehearsal")
    parser.add_argument(
        "--images", type=Path, help="CIFAR-10's images as JPEGs in an npz file (experiments/gpu/images.py)"
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels of what this machine lacks")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--budget", type=float, default=560.0, help="seconds of everything together")
    for part, seconds in PARTS.items():
        parser.add_argument(f"--{part}", type=float, default=seconds, metavar="SECONDS", help="at most")
    parser.add_argument("--trainings", type=int, default=0, help="at once (default: as many as are fastest)")
    parser.add_argument("--seeds", type=int, default=3, help="trained copies of each run")
    parser.add_argument("--commit", default="", help="of the code (default: what git says)")
    return parser.parse_args()


def environment(wheels: Path | None, site: str) -> dict[str, str]:
    """Where the parts find the checkout, the benchmarks and the wheels; these are installed into ``site``."""
    if wheels is not None:
        install = ["install", "-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--target", site]
        done = subprocess.run(
            [sys.executable, "-m", "pip", *install, *map(str, sorted(wheels.glob("*.whl")))], check=False
        )
        if done.returncode:
            print("the wheels could not be installed; going on without them", flush=True)
    paths = [ROOT, ROOT / "experiments" / "benchmarks", site, os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, map(str, paths))), "PYTHONUNBUFFERED": "1"}


def supervise(
    part: str, command: list[str], out: Path, deadline: float, env: dict[str, str], about: dict[str, object]
) -> None:
    """Run a part until it is done or its time is up. What it was at when it was lost becomes a line with the error,
    and a new process goes on behind it."""
    for mark in out.glob(f".{part}*"):  # of a call that was killed
        mark.unlink()
    while True:
        code = _run([*command, f"{deadline}"], out / "log.txt", deadline + GRACE, env)
        marks = list(out.glob(f".{part}*"))
        lost = [mark.read_text() for mark in marks]
        for mark in marks:
            mark.unlink()
        if code == 0:
            return
        if code is None:
            error = "its time was up, and it did not end"
        else:
            error = f"its process ended with {f'signal {-code}' if code < 0 else f'code {code}'}"
        for name in lost or ["process"] * (code != AGAIN):
            append(out, {**about, "part": part, "name": name, "ok": False, "error": error})
        if time.time() > deadline or not (lost or code == AGAIN):
            return


def _run(command: list[str], log: Path, end: float, env: dict[str, str]) -> int | None:
    """The exit code of a command, or None if it had to be ended; what it prints is shown and kept."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=ROOT, start_new_session=True
    )
    assert process.stdout is not None
    copying = threading.Thread(target=_copy, args=(process.stdout, log), daemon=True)
    copying.start()
    try:
        return process.wait(max(1.0, end - time.time()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with all that it started
        process.wait()
        copying.join(10)


def _copy(lines: TextIO, log: Path) -> None:
    with lines, log.open("a") as file:
        for line in lines:
            print(line, end="", flush=True)
            file.write(line)
            file.flush()


def append(out: Path, row: dict[str, object]) -> None:
    """Add a line to the rows, in one write, so that several processes may."""
    with (out / "rows.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def commit() -> str:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def summary(out: Path, call: str) -> None:
    """Print what this call did, part by part, and what failed."""
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    for part in PARTS:
        those = [row for row in rows if row["part"] == part and row["call"] == call]
        print(f"{part}: {sum(row['ok'] for row in those)} done, {sum(not row['ok'] for row in those)} failed")
        for row in those:
            if not row["ok"]:
                print(f"  {row['name']}: {row['error']}")
    print(f"rows: {out / 'rows.jsonl'}", flush=True)


def main() -> None:
    args, began = options(), time.time()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # parts end, too
    args.out.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    call = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(began))
    given = {
        "out": str(args.out.resolve()), "work": str(args.work.resolve()), "device": args.device, "tiny": args.tiny,
        "images": str(args.images.resolve()) if args.images else "", "commit": args.commit or commit(), "call": call,
        "trainings": args.trainings, "seeds": args.seeds,
    }  # fmt: skip
    about = {"call": call, "commit": given["commit"], "date": call[:10]}
    (args.out / "rows.jsonl").touch()
    with tempfile.TemporaryDirectory() as site:
        env = environment(args.wheels, site)
        for part in args.parts:
            left = began + args.budget - time.time()
            if left < 1:
                append(args.out, {**about, "part": part, "name": "process", "ok": False, "error": "no time was left"})
                continue
            seconds = min(getattr(args, part), left)
            print(f"== {part}, {seconds:.0f} s", flush=True)
            command = [sys.executable, "-m", "experiments.gpu.part", part, json.dumps(given)]
            supervise(part, command, args.out.resolve(), time.time() + seconds, env, about)
    summary(args.out, call)


if __name__ == "__main__":
    main()
