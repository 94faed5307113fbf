"""The training rules, one file each; all of them are known by name as soon as one is."""

from noiserobust.training.rules import (
    amp,
    arwp,
    asam,
    base,
    esam,
    fsam,
    gsam,
    looksam,
    lpf_sgd,
    mesa,
    rst,
    rwp,
    rwp_mixed,
    saf,
    sam,
    samson,
    ssam,
    vasso,
)
