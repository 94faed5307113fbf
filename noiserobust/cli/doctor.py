"""``noiserobust doctor``."""

from __future__ import annotations

from dataclasses import dataclass

from noiserobust.cli.flags import Command
from noiserobust.errors import UserError


@dataclass(frozen=True)
class Doctor(Command):
    """Look at this installation: versions, devices, memory and disk, a self-test of some seconds; and what to do."""

    examples = ("noiserobust doctor", "noiserobust doctor --json")

    json: bool = False
    """Print one JSON object and nothing else."""

    def run(self) -> None:
        from noiserobust.doctor import examine

        findings = []
        for one in examine():
            findings.append(one)
            if not self.json:
                mark = "ok" if not one.remedy else "!!" if one.serious else "! "
                print(f"{mark:2}  {one.name:14}  {one.found}")
                if one.remedy:
                    print(f"    {'':14}  -> {one.remedy}")
        serious = [one.name for one in findings if one.remedy and one.serious]
        if self.json:
            import dataclasses
            import json

            print(
                json.dumps({"well": not serious, "findings": [dataclasses.asdict(one) for one in findings]}, indent=2)
            )
        if serious:
            raise UserError(f"expected a working installation, got problems with {', '.join(serious)}; see above")
