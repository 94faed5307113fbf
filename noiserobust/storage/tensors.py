"""Safetensors files that are the same bytes for the same content, and sealed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.seals import BLANK, NAME
from noiserobust.storage.files import write_atomically

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
"""What the format calls the types of numbers."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
    """Write ``tensors`` by name as safetensors, with the texts ``about`` them, whole or not at all.

    The format is eight bytes with the length of a JSON header (little-endian), the header, then the numbers one after
    the other: the largest types first, so that all are aligned. safetensors' own writer shuffles the texts.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
            raise UserError(
                f"expected dense tensors of numbers for {path}, got {name}: {tensor.dtype}, {tensor.layout}; "
                "dequantise or densify it"
            )
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {**dict(sorted(about.items())), NAME: BLANK}}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        kind, shape = DTYPES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                values = tensors[name].detach().cpu().contiguous().flatten()
                file.write(values.view(torch.uint8).numpy().data)

    return write_atomically(path, write)
