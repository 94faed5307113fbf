"""What a network's outputs mean: accuracy, loss and further metrics; data made ready for forward passes."""
