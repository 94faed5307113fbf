"""Pictures: what draws them from rows, and those that the documentation shows."""
