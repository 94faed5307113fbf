"""The training rules, one file each; all of them are known by name as soon as one is."""

from noiserobust.training.rules import asam, base, esam, gsam, looksam, mesa, rst, rwp, rwp_mixed, saf, sam, ssam
