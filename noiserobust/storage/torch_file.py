"""Weights out of a file that ``torch.save`` wrote, without running any of the code that such a file can carry."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiserobust.errors import UserError, reason_of
from noiserobust.limits import limits, require_file

KEYS = ("state_dict", "model", "model_state_dict", "net")
"""Where training programs keep the weights in what they save."""
_BEGINNINGS = (b"PK\x03\x04", b"\x80")  # a zip archive; a bare pickle, before torch 1.6
ANALOG = (
    "an analog model's state holds its RPUConfig: load it in a program of yours, and evaluate the model, or save what "
    "from_analog(model) gives (docs/from_aihwkit.md)"
)
_PICKLES = 5  # of a file before torch 1.6, before the numbers
_KINDS = {
    "bytearray": "bytes of any number",
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor on the meta device, without numbers",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_wrapper_subclass": "a tensor of a class of its own",
}
"""What torch takes for harmless, and is no plain tensor; by the function that would make it."""


def is_torch_file(path: Path) -> bool:
    """Whether ``path`` begins as a file of ``torch.save`` does, whatever its name."""
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file begins with a length, any eight bytes, and then a brace.
    return start.startswith(_BEGINNINGS) and start[8:] != b"{"


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The weights by name, on the CPU.

    Raises :class:`~noiserobust.UserError` when the file holds objects other than plain data (nothing of it is run), is
    broken, unpacks to more than its size, has tensors that are not dense and real, or has no weights in it.
    """
    weights = _weights(content := plain_content(path))
    if weights is None:
        got = f"a dictionary of {', '.join(map(str, content))[:80]}" if isinstance(content, dict) else type(content)
        raise UserError(f"expected weights by name, plain or under {', '.join(KEYS)}, got {path} with {got}")
    require_plain(weights, path)
    return weights


def plain_content(path: Path) -> Any:
    """What ``torch.load`` reads with ``weights_only=True``, when it takes no more memory than the file."""
    require_file(path, "weights saved by torch", "file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch would warn of, such as TorchScript, it refuses next
            _require_bounded(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # broken bytes make the reader fail in any way
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is None:
            raise UserError(
                f"expected weights saved by torch, got {path}, which cannot be read: {reason_of(error)}"
            ) from None
        advice = ANALOG if refused[1].startswith("aihwkit.") else "save model.state_dict() alone"
        raise UserError(
            f"expected weights by name, got {path}, which holds a {refused[1]}: loading that runs code of the file; "
            f"{advice}"
        ) from None


def require_plain(weights: Mapping[str, Tensor], path: object) -> None:
    """Refuse tensors that are not dense and real, or hold more numbers than are stored (expanded ones)."""
    for name, tensor in weights.items():
        kind = next((kind for kind, holds in _kinds(tensor) if holds), None)
        if kind is not None:
            raise UserError(f"expected dense, real tensors, got {kind} as {name} of {path}; save plain weights")
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in weights.values()}
    wanted, there = sum(tensor.numel() * tensor.itemsize for tensor in weights.values()), sum(stored.values())
    if wanted > there + limits().headroom:
        raise UserError(
            f"expected weights as large as what is stored, got {wanted:,} bytes out of {there:,} in {path}; save "
            "tensors that are not expanded"
        )


def _kinds(tensor: Tensor) -> Iterator[tuple[str, bool]]:
    yield "a nested tensor", tensor.is_nested
    yield f"a {str(tensor.layout).removeprefix('torch.')} tensor", tensor.layout != torch.strided
    yield "a quantised tensor", tensor.is_quantized
    yield "a tensor on the meta device, without numbers,", tensor.is_meta
    yield "a complex tensor", tensor.is_complex()


def _require_bounded(path: Path) -> None:
    """Refuse what would unpack to much more than the file: compressed archives, and instructions that ask for it."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if (
                any(one.compress_type != zipfile.ZIP_STORED for one in members)
                or sum(one.file_size for one in members) > size
            ):
                raise UserError(f"expected an archive as torch.save writes it, got {path}, compressed")
            for one in members:
                if one.filename.endswith(".pkl"):
                    with archive.open(one) as file:
                        _require_plain_pickle(file, path)
    else:
        with path.open("rb") as file:
            for _ in range(_PICKLES):
                _require_plain_pickle(file, path)


def _require_plain_pickle(pickled: Any, path: Path) -> None:
    """Refuse a pickle that makes other things than plain tensors."""
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name == "GLOBAL":
            kind = _KINDS.get(str(argument).rpartition(" ")[2])
            if kind is not None:
                raise UserError(f"expected dense, real tensors, got {kind} in {path}; save plain weights")


def _weights(content: Any, depth: int = 0) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping) or depth > limits().depth:  # it may even hold itself
        return None
    for key in KEYS:
        inside = _weights(content.get(key), depth + 1)
        if inside is not None:
            return inside
    # Beside the weights there may stand an epoch or an accuracy.
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return tensors or None
