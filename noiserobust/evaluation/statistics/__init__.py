"""Means, uncertainties and intervals of tidy rows."""
