"""Tasks of the lm-evaluation-harness: a network on a chip is a language model in memory."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from noiserobust.data.text import tokenizer_in
from noiserobust.errors import UserError
from noiserobust.models.wrappers import unwrap
from noiserobust.tasks.scorer import Scorer


@dataclass(frozen=True)
class Harness(Scorer, name="lm-eval"):
    """Tasks of the lm-evaluation-harness, such as ``lm-eval:arc_easy+hellaswag,limit=200``.

    The network, as it is on the chip, is given to the harness's ``HFLM``; each of its numbers is a metric
    ``METRIC/TASK`` (``acc/arc_easy``; ``exact_match/gsm8k/flexible-extract`` where a filter is named), in its own
    units: ``acc`` is a fraction. Its standard errors over questions are left out: rows are of chips.

    - ``tasks``: names, or paths of YAML files, joined by ``+``. In Python :meth:`of` takes what the harness takes.
    - ``limit``: questions of each task; ``shots``: examples before each.
    - ``tokenizer``: folder of a tokenizer (default: the one in the folder that the network was read from).
    - ``batch_size``: questions per pass.
    - ``folder``: of YAML files that define further tasks; only those are then known.
    - ``metric``: what is shown and chosen by (default: the first number); ``less``: whether less of it is better.

    L. Gao et al., The Language Model Evaluation Harness, 2024 (10.5281/zenodo.12608602).
    """

    example: ClassVar[str] = "lm-eval:arc_easy,limit=200"

    tasks: str
    limit: int | None = None
    shots: int | None = None
    tokenizer: str = ""
    batch_size: int = 8
    folder: str = ""
    metric: str = ""
    less: bool = False
    _given: ClassVar[Any] = None
    _tokenizer: ClassVar[Any] = None

    @staticmethod
    def of(tasks: Any, tokenizer: Any = None, **settings: Any) -> Harness:
        """The same of what is at hand: ``tasks`` as ``simple_evaluate`` takes them (names, dictionaries, Task objects,
        or several), and a ``tokenizer`` object."""
        listed = tasks if isinstance(tasks, (list, tuple)) else [tasks]
        task = Harness("+".join(map(_task_name, listed)), **settings)
        object.__setattr__(task, "_given", list(listed))
        object.__setattr__(task, "_tokenizer", tokenizer)
        return task

    def score(self, model: nn.Module) -> dict[str, float]:
        from lm_eval import simple_evaluate

        network = unwrap(model)
        with self._asked():
            found = simple_evaluate(
                model=self._language_model(network),
                tasks=list(self._loaded),
                num_fewshot=self.shots,
                limit=self.limit,
                bootstrap_iters=0,
                log_samples=False,
                task_manager=self._manager,
            )
        values = {
            name: float(value)
            for part in ("results", "groups")
            for task, metrics in (found or {}).get(part, {}).items()
            for key, value in metrics.items()
            if (name := _name(task, key)) is not None and isinstance(value, (int, float))
        }
        if not values:
            raise UserError(f"expected numbers from the harness's tasks {self.tasks}, got none")
        if self.metric and self.metric not in values:
            raise UserError(f"expected a metric of {', '.join(values)}, got '{self.metric}'")
        return {self.metric: values[self.metric], **values} if self.metric else values

    @property
    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        from lm_eval import __version__

        digest = hashlib.sha256(f"{self} lm-eval {__version__}".encode())
        with self._asked():
            for name, task in self._manager.load(list(self._loaded))["tasks"].items():
                digest.update(json.dumps([name, task.dump_config()], sort_keys=True, default=str).encode())
                for doc in task.eval_docs:
                    digest.update(repr(doc).encode())
        if self._tokenizer is not None:
            digest.update(repr(sorted(self._tokenizer.get_vocab().items())).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def _manager(self) -> Any:
        # Reading all definitions that come with the harness takes seconds.
        named = self._given is None or any(isinstance(one, str) for one in self._given)
        return _task_manager(self.folder, named and not self.folder)

    @cached_property
    def _loaded(self) -> Sequence[Any]:
        """The tasks with their data, read once for all chips."""
        given = self._given or self.tasks.split("+")
        found = self._manager.load(list(given))
        inside = {name for names in found["group_map"].values() for name in names}
        return [one for kind in ("groups", "tasks") for name, one in found[kind].items() if name not in inside]

    def _language_model(self, network: nn.Module) -> Any:
        from lm_eval.models.huggingface import HFLM

        if not hasattr(network, "config"):
            raise UserError(f"expected a network of transformers for {self}, got {type(network).__name__}")
        folder = self.tokenizer or getattr(network.config, "_name_or_path", "")
        tokenizer = self._tokenizer or tokenizer_in(folder)
        return HFLM(pretrained=network, tokenizer=tokenizer, batch_size=self.batch_size)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Inside the harness works without telling all that it does: what it refuses (an unknown task, data that are
        not there) is one line, and Python's, numpy's and torch's generators, which it seeds, are as before."""
        states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the one that it seeds
        logger = logging.getLogger("lm_eval")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with torch.random.fork_rng():
                yield
        except (KeyError, ValueError, TypeError, OSError, AssertionError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{self}: expected tasks that the harness can run, got: {reason}") from error
        finally:
            logger.setLevel(level)
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


@cache
def _task_manager(folder: str, defaults: bool) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError("expected lm-eval to be installed for its tasks; pip install lm-eval") from None
    return TaskManager(include_path=folder or None, include_defaults=defaults)


def _task_name(task: Any) -> str:
    return str(task if isinstance(task, str) else task["task"] if isinstance(task, dict) else task.task_name)


def _name(task: str, key: str) -> str | None:
    """``acc/arc_easy`` of the harness's ``acc,none``; None for what is no metric."""
    metric, comma, chosen = key.partition(",")
    if not comma or metric.endswith("_stderr"):
        return None
    return f"{metric}/{task}" + ("" if chosen == "none" else f"/{chosen}")
