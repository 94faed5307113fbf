"""``python -m noiserobust.cli``."""

from noiserobust.cli import main

main()
