"""``python -m noiserobust``."""

from noiserobust.cli import main

if __name__ == "__main__":
    main()
