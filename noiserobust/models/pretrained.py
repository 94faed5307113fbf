"""Networks of transformers, from a folder that ``save_pretrained`` wrote: configuration and safetensors, no code."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from noiserobust.errors import UserError
from noiserobust.limits import limits, read_text_bytes, require_file
from noiserobust.models.base import ModelSpec, Native
from noiserobust.models.sizes import Bounds

TOKENS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForTokenClassification", "ForConditionalGeneration")
"""Ends of the names of classes that give logits for every token."""
CLASSES = ("ForSequenceClassification", "ForTokenClassification", "ForImageClassification")
"""Ends of the names of classes whose logits are of classes of one's own."""
CONFIG, ADAPTER_CONFIG, ADAPTER = "config.json", "adapter_config.json", "adapter_model.safetensors"
IMAGES = "preprocessor_config.json"
"""How transformers' image processors are saved."""
FEW = 1000
"""Tensors that a network may have, however few its folder holds."""


@dataclass(frozen=True)
class Transformers(ModelSpec, name="transformers"):
    """A network of transformers, from a folder that save_pretrained wrote.

    Its class is looked up among those of transformers itself, its weights are read from safetensors; nothing is
    downloaded, no code of the folder is run, no pickle is opened. It stays in the precision in which it was stored.

    - ``folder``: holds ``config.json`` and ``*.safetensors``, in one file or in several.
    - ``adapter``: folder of a PEFT adapter (LoRA, ...) on it.
    - ``architecture``: class of transformers, such as ``LlamaForSequenceClassification`` (default: the one that
      ``config.json`` names). Layers that the folder has no weights for are refused, but for the classifying layer of
      other classes than the folder's, which is initialised anew.
    - ``weights``: false leaves them random, for training from the start.
    """

    example: ClassVar[str] = "transformers:path/to/folder"
    native = Native(32, 1, 2)

    folder: str
    adapter: str = ""
    architecture: str = ""
    weights: bool = True

    def build(self, channels: int, classes: int) -> nn.Module:
        """A network of ``classes`` classes where its classes are one's own; else the arguments are not used."""
        return self._made(classes)

    def load(self) -> nn.Module:
        """The network as it is in the folder, in eval mode."""
        return self._made(None).eval()

    def inputs(self, batch: int, channels: int, size: int) -> Tensor:
        return torch.zeros(batch, channels, dtype=torch.long, device="meta")

    def without_weights(self) -> Transformers:
        return replace(self, weights=False)

    @property
    def task(self) -> str:
        """Text of the task that the network's class is for."""
        return "tokens" if self._class_name(_json(Path(self.folder, CONFIG))).endswith(TOKENS) else "classification"

    @property
    def normalization(self) -> dict[str, Any]:
        """``mean`` and ``std`` of the images, where the folder says how its network's inputs are prepared."""
        file = Path(self.folder, IMAGES)
        settings = _json(file) if os.path.isfile(file) else {}
        mean, std = settings.get("image_mean"), settings.get("image_std")
        if not isinstance(mean, list) or not isinstance(std, list):
            return {}
        return {"mean": mean, "std": std} if settings.get("do_normalize", True) else {"mean": [0.0], "std": [1.0]}

    def _made(self, classes: int | None) -> nn.Module:
        transformers = _library("transformers")
        written = _json(Path(self.folder, CONFIG))
        kind: Any = getattr(transformers, self._class_name(written), None)
        known = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        if not known:
            raise UserError(
                f"expected a class of transformers in {Path(self.folder, CONFIG)}, got {self._class_name(written)!r}; "
                "code of a folder is not run: build the network yourself and pass the module"
            )
        # An attention by the name of a repository would be code from there.
        if foreign := [key for key, value in written.items() if "implementation" in key and "/" in str(value)]:
            raise UserError(f"expected no code from elsewhere, got {foreign[0]}={written[foreign[0]]!r}; remove it")
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        with _told(self.folder), _quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(self.folder, **options)
            anew = classes is not None and kind.__name__.endswith(CLASSES) and config.num_labels != classes
            if anew:
                config.num_labels = classes
            if self.weights:
                self._require_as_large(kind, config)
            if not self.weights:
                network: nn.Module = kind._from_config(config)
            else:
                network, info = kind.from_pretrained(
                    self.folder,
                    config=config,
                    use_safetensors=True,
                    local_files_only=True,
                    ignore_mismatched_sizes=anew,
                    output_loading_info=True,
                )
                if info["missing_keys"]:
                    names = sorted(info["missing_keys"])
                    raise UserError(
                        f"expected all weights of {kind.__name__} in {self.folder}, got none for {', '.join(names[:3])}"
                        f"{' and more' if len(names) > 3 else ''}; name another architecture"
                    )
            return self._adapted(network) if self.adapter else network

    def _require_as_large(self, kind: Any, config: Any) -> None:
        """Refuse a configuration that asks for many more weights than the folder holds, before memory is taken."""
        held, tensors = _stored(Path(self.folder))
        held *= 8 if hasattr(config, "quantization_config") else 1  # some pack eight weights into a number
        spare = limits().headroom / 4
        try:
            # Weights that are tied are made one by one, and then shared.
            bounds = Bounds(self, 0, 0, held, large=True, spare=held + spare, tensors=max(FEW, 10 * tensors))
            with torch.device("meta"), bounds:
                network = kind(config)
        except UserError:
            raise
        except Exception:  # it cannot be built like that
            return
        if sum(parameter.numel() for parameter in network.parameters()) > held + spare:
            raise UserError(
                f"expected a network of the {held:,} weights that are there, got {Path(self.folder, CONFIG)}, "
                "which asks for many more; take another copy"
            )

    def _adapted(self, network: nn.Module) -> nn.Module:
        peft = _library("peft")
        adapted: nn.Module
        # Without these files peft would look for a pickle, then for a download.
        for name in (ADAPTER_CONFIG, ADAPTER):
            if not os.path.isfile(Path(self.adapter, name)):
                raise UserError(f"expected {name} in {self.adapter}, got none; save the adapter as safetensors")
        held, tensors = _stored(Path(self.adapter))
        with Bounds(self, 0, 0, held, large=True, tensors=max(FEW, 10 * tensors)):
            if self.weights:
                adapted = peft.PeftModel.from_pretrained(network, self.adapter)
            else:
                config = peft.PeftConfig.from_pretrained(self.adapter)
                config.inference_mode = False
                adapted = peft.get_peft_model(network, config)
        return adapted

    def _class_name(self, config: Mapping[str, Any]) -> str:
        return self.architecture or next(iter(config.get("architectures") or []), "")


class Loaded(Mapping[str, Tensor]):
    """The weights of a folder of transformers', by name, read when they are first asked for."""

    def __init__(self, spec: Transformers) -> None:
        self.spec = spec

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        return self.spec.load().state_dict()

    def __getitem__(self, name: str) -> Tensor:
        return self._state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def in_folder(folder: Path) -> Transformers | None:
    """What ``save_pretrained`` wrote into ``folder``: a network, or an adapter on one; None where it is neither."""
    if (folder / ADAPTER_CONFIG).is_file():
        base = str(_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path"))
        if not os.path.isfile(Path(base, CONFIG)):
            raise UserError(
                f"expected the base model of {folder} in a folder, got '{base}'; name both: "
                f"transformers:BASE,adapter={folder}"
            )
        return Transformers(base, adapter=str(folder))
    named = (folder / CONFIG).is_file() and any(folder.glob("*.safetensors"))
    return Transformers(str(folder)) if named and "model_type" in _json(folder / CONFIG) else None


def _stored(folder: Path) -> tuple[int, int]:
    """How many numbers, and tensors, the safetensors files of a folder hold, by their headers."""
    sizes = []
    for file in folder.glob("*.safetensors"):
        require_file(file, "weights (.safetensors)", "file")
        with safe_open(file, framework="pt") as opened:
            sizes += [math.prod(opened.get_slice(name).get_shape()) for name in opened.keys()]  # noqa: SIM118
    return sum(sizes), len(sizes)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text_bytes(file, "a description (JSON)"))
    except (UserError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"expected a folder that save_pretrained wrote, got {file.parent} without a readable {file.name}"
        )
    return content


def _library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"expected {name} to be installed for networks of transformers; pip install {name}") from None


@contextmanager
def _told(folder: str) -> Iterator[None]:
    """One line instead of a traceback for a folder that transformers cannot read."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a library makes of a file
        reason = " ".join((str(error).strip() or type(error).__name__).split())[:200]
        raise UserError(f"expected a folder that save_pretrained wrote, got {folder}: {reason}") from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without progress bars and reports of what is checked here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
