"""Accuracy under noise to a stated precision: draws and images are decided on the way."""
