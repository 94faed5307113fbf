"""What lies on disk: checkpoints, rows, files whole or not at all, provenance."""
