"""Training rules in the loops of other libraries; nothing here is imported by the rest of the package."""
