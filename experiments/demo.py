"""The demonstration: ``noiserobust demo``, which an installed package has, too."""

from __future__ import annotations

import sys

from noiserobust.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
