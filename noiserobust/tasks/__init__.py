"""What a network's output means: losses, metrics, batches."""
