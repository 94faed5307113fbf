"""A network on arrays: which weights are analog, noisy weights in and out, converters, folding, backends."""
