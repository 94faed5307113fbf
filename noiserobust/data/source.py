"""Data by name: a source says how training and test data are read, and reads them when they are needed."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from noiserobust.data.dataset import Splits
from noiserobust.errors import UserError
from noiserobust.spec import Described, OfFunction


@dataclass(frozen=True)
class DataSource(Described, family="data set"):
    """Training and test data that have a name, such as ``cifar10``; :meth:`load` reads them."""

    resizes: ClassVar[bool] = False
    """Whether images can be brought to a size."""
    of_path: ClassVar[bool] = False
    """Whether all that stands behind the name and a colon is a path."""
    in_root: ClassVar[bool] = False
    """Whether the data lie where named data are kept."""

    def load(self, root: str | Path = "data", image_size: int | None = None) -> Splits:
        """The data. root: where named data are kept; image_size: resizes the images of a folder."""
        if image_size is not None and not self.resizes:
            raise UserError(f"expected image_size only with an image folder, got {image_size} for {self}: leave it out")
        data = self.read(root, image_size)
        return data if isinstance(data, Splits) else Splits(*data)

    def lies_in(self, root: str | Path) -> bool:
        """Whether the data are on this machine, so that nothing is downloaded to read them; ``root`` as in ``load``."""
        return True

    @abstractmethod
    def read(self, root: str | Path, image_size: int | None) -> Any:
        """:class:`Splits`, or ``(train, test)`` of anything that :func:`~noiserobust.data.as_dataset` takes."""

    @classmethod
    def parse(cls, text: Any, imports: bool = True) -> Any:
        """The source that ``text`` describes: ``digits``, the path of an image folder, ``stream:FOLDER``,
        ``package.module:Name(...)``. A folder that is called like a known name is reached by ``./name``."""
        if not isinstance(text, str):
            return super().parse(text, imports)
        name, colon, path = text.partition(":")
        if colon and name in cls.registry and cls.registry[name].of_path:
            return cls.registry[name](path)
        if text not in cls.registry and os.path.isdir(text):
            return cls.registry["folder"](text)
        if re.fullmatch(r"[\w.-]+([:(].*)?", text, re.DOTALL) is None:
            raise cls.unknown(text, text)
        return super().parse(text, imports)

    @classmethod
    def offered(cls) -> str:
        known = sorted(name for name, member in cls.registry.items() if not member.of_path)
        return f"{', '.join(known)} or the path of an image folder"


@dataclass(frozen=True)
class DataOfFunction(OfFunction, DataSource):
    """``package.module:function(samples=100)``: what ``function(samples=100)`` returns."""

    given: ClassVar[Collection[str]] = ()

    def read(self, root: str | Path, image_size: int | None) -> Any:
        expected = "expected a function that returns Splits or (train, test)"
        data = self.call(expected)
        if not isinstance(data, Splits) and not (isinstance(data, tuple) and len(data) == 2):
            raise UserError(f"{self}: {expected}, got {type(data).__name__}")
        return data
