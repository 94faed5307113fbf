"""``noiserobust doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from noiserobust.cli.flags import Command
from noiserobust.cli.output import Part
from noiserobust.errors import UserError


@dataclass(frozen=True)
class Doctor(Command):
    """Look at this installation: versions, devices, memory and disk, a self-test of some seconds; and what to do."""

    examples = ("noiserobust doctor", "noiserobust doctor --json")

    def run(self) -> Iterator[Part]:
        from noiserobust.doctor import examine

        serious = []
        for one in examine():
            mark = "ok" if not one.remedy else "!!" if one.serious else "! "
            remedy = f"\n    {'':14}  -> {one.remedy}" if one.remedy else ""
            if one.remedy and one.serious:
                serious.append(one.name)
            yield Part(f"{mark:2}  {one.name:14}  {one.found}{remedy}", values={"findings": [asdict(one)]})
        yield Part(values={"well": not serious})
        if serious:
            raise UserError(f"expected a working installation, got problems with {', '.join(serious)}; see above")
