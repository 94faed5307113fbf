"""Settings as text: everything that can be written reads back equal, and a mistake is one helpful line."""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from typing import Any

import numpy as np
import pytest
from cases import TABLE
from families import ROOTS
from hypothesis import given, reject
from hypothesis import strategies as st

from noiserobust.data.subset import Subset
from noiserobust.errors import UserError
from noiserobust.models import LoRA, ModelSpec
from noiserobust.noise import PCM, Gaussian, Hermes, Laplace, NoiseModel, Sum
from noiserobust.noise.wrapper import Wrapper
from noiserobust.spec import Described, Duration
from noiserobust.training import RST, RWP, SAM, Constant, Linear, Method, OffToOn, Quadratic, Schedule
from noiserobust.training.schedules import Cosine, Drawn

INSIDE_ONCE = (RST, Drawn, Subset, LoRA)

KNOWN = ", ".join(sorted(NoiseModel.registry))
MEMBERS = {f"{family}-{name}": member for family, root in ROOTS.items() for name, member in root.registry.items()}


@functools.cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, within what most fields allow: floats in [0, 1], whole numbers from 1."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return st.sampled_from(options)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values(option) for option in options])
    if isinstance(kind, type) and issubclass(kind, NoiseModel):
        # Noise inside a noise has none inside itself, so that drawing ends.
        members = [member for member in NoiseModel.registry.values() if not issubclass(member, Wrapper)]
        leaves = st.one_of([settings_of(member) for member in members])
        return leaves | st.lists(leaves, min_size=2, max_size=3).map(lambda parts: Sum(tuple(parts)))
    if isinstance(kind, type) and issubclass(kind, Described):
        # What is inside one of its kind (RST's rule, a subset's data) has none inside itself, so that drawing ends.
        members = [
            m for m in kind.registry.values() if issubclass(m, kind) and not issubclass(m, (RST, Drawn, Subset, LoRA))
        ]
        return st.one_of([settings_of(member) for member in members])
    plain: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(1, 24) | st.integers(1, 10**7),
        float: st.floats(0, 1),
        bool: st.booleans(),
        str: st.just(TABLE),  # text is the name of a file
        types.NoneType: st.none(),
        Duration: st.floats(0, 1e9).map(Duration) | st.sampled_from([0, 1, 25, 3600, 86400]).map(Duration),
    }
    return plain[kind]


FEW = st.integers(1, 4)
NARROW: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "measured": {"temperature": st.none(), "activation": st.none()},  # the table has no temperatures
    "cells": {"number": FEW},
    "correlated": {"rows": st.just(512), "columns": st.just(512)},  # others go with over=tile alone
    "sliced": {"bits": FEW, "slices": FEW, "others": st.none()},  # their own text is tested with them
    "write_verify": {"iterations": FEW},
    "rms": {"times": st.floats(1.01, 100)},
    "factory": {"target": st.from_regex(r"[a-z_]{1,8}(\.[a-z_]{1,8})?:[a-z_]{1,8}", fullmatch=True)},
    "torchvision": {
        "network": st.sampled_from(["resnet50", "vit_b_16"]),
        "weights": st.sampled_from([None, "DEFAULT"]),
    },
    "wrn": {"shape": st.sampled_from(["10-1", "16-8", "28-10"])},
    "pyramidnet": {"depth": st.sampled_from([8, 110, 272])},
    **{
        name: {"heads": st.sampled_from([1, 2, 3]), "width": st.integers(1, 99).map(lambda n: 24 * n)}
        | {"patch": st.sampled_from([4, 8, 16, 32]), "image_size": st.integers(1, 99).map(lambda n: 32 * n)}
        for name in ("vit-cifar", "vit-s16", "vit-s32", "deit-s")
    },
}
"""Values of fields of which a class allows few."""


@functools.cache
def settings_of(member: type[Any]) -> st.SearchStrategy[Any]:
    """Objects of a registered class, over all its fields."""
    kinds, narrow = typing.get_type_hints(member), NARROW.get(member.name, {})
    narrow = {"on_off": st.none() | st.floats(1.5, 5), "g_max": st.none() | st.floats(12, 20)} | narrow
    fields = {
        field.name: narrow[field.name] if field.name in narrow else values(kinds[field.name])
        for field in dataclasses.fields(member)
        if field.init
    }
    required = {f.name for f in dataclasses.fields(member) if f.default is f.default_factory is dataclasses.MISSING}

    def make(given: dict[str, Any]) -> Any:
        if "reference" in fields and given.get("reference") not in ("tile", "tile-column"):
            given = {name: value for name, value in given.items() if name not in ("rows", "columns")}
        try:
            return member(**given)
        except UserError:  # a combination that this class does not allow
            reject()

    mandatory = {name: kind for name, kind in fields.items() if name in required}
    optional = {name: kind for name, kind in fields.items() if name not in required}
    return st.fixed_dictionaries(mandatory, optional=optional).map(make)


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
@given(data=st.data())
def test_every_registered_member_reads_back_equal(member: type[Any], data: st.DataObject) -> None:
    written = data.draw(settings_of(member))
    (family,) = (root for root in ROOTS.values() if issubclass(member, root))
    assert family.parse(str(written)) == written
    assert str(family.parse(str(written))) == str(written)
    assert member.parse(written.nested()) == written


@given(values(NoiseModel))
def test_composed_noises_read_back_equal(noise: NoiseModel) -> None:
    assert NoiseModel.parse(str(noise)) == noise
    assert NoiseModel.parse(noise.nested()) == noise
    assert RWP.parse(str(RWP(noise))) == RWP(noise)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Gaussian(0.05), "gaussian:0.05"),
        (Gaussian(0.05, "layer", "literal"), "gaussian:0.05,reference=layer,reading=literal"),
        (Laplace(1e-5, "tile", rows=256), "laplace:1e-05,reference=tile,rows=256"),
        (Gaussian(0.02) + Laplace(0.01) + Gaussian(1.0), "gaussian:0.02+laplace:0.01+gaussian:1.0"),
        (Gaussian(1e20) + Laplace(0.01), "gaussian:1e+20+laplace:0.01"),
        (PCM(), "pcm"),
        (PCM(0.5, t=Duration("1d"), read=0.0), "pcm:0.5,t=1d,read=0.0"),
        (RWP(Hermes(cells=1)), "rwp:hermes(cells=1)"),
        (Method.parse("plain"), "plain"),
        (SAM(0.2, perturb="analog"), "sam:0.2,perturb=analog"),
        (SAM(Linear(0.5, warmup=0.3)), "sam:linear(0.5,warmup=0.3)"),
        (SAM(Quadratic(0.5, warmup=100)), "sam:quadratic(0.5,warmup=100)"),
        (RWP(), "rwp:gaussian(0.1)"),
        (RWP(Gaussian(0.2, "layer") + Laplace(0.1)), "rwp:gaussian(0.2,reference=layer)+laplace(0.1)"),
        (RWP(Gaussian(0.2), OffToOn(1.0), 2), "rwp:gaussian(0.2),schedule=off-to-on(1.0),draws=2"),
    ],
)
def test_the_written_form(value: Any, text: str) -> None:
    assert str(value) == text
    (family,) = (root for root in ROOTS.values() if isinstance(value, root))
    assert family.parse(text) == value


def test_several_ways_to_write_the_same() -> None:
    for text in ("gaussian:.1,layer", "gaussian(0.1, reference=layer)", " gaussian:reference=layer , sigma=1e-1 "):
        assert NoiseModel.parse(text) == Gaussian(0.1, reference="layer")
    assert NoiseModel.parse("gaussian:1e+2 + laplace:0.2") == Gaussian(100.0) + Laplace(0.2)
    assert Schedule.parse("constant(1)") == Constant(1.0)
    assert Method.parse("rwp(gaussian:0.2)") == RWP(Gaussian(0.2))


@pytest.mark.parametrize(
    ("text", "seconds", "written"),
    [
        ("25s", 25, "25s"),
        ("25", 25, "25s"),
        ("90 s", 90, "90s"),
        ("2min", 120, "2min"),
        ("1h", 3600, "1h"),
        ("1.5h", 5400, "90min"),
        ("30d", 30 * 86400, "30d"),
        ("1y", 365 * 86400, "1y"),
        ("1e3", 1000, "1000s"),
        ("0", 0, "0s"),
        ("0.1s", 0.1, "0.1s"),
    ],
)
def test_times(text: str, seconds: float, written: str) -> None:
    assert Duration(text) == Duration(seconds) == seconds
    assert str(Duration(text)) == written


@pytest.mark.parametrize("wrong", ["1w", "h", "", "-1s", "nan", "inf", "1h30", -1.0, float("inf")])
def test_no_times(wrong: str | float) -> None:
    with pytest.raises(UserError, match="expected a time such as 25s, 1h, 1d, 1y"):
        Duration(wrong)


def test_a_fraction_stays_a_fraction_and_steps_stay_steps() -> None:
    for kind in (Linear, Cosine):  # whose default is all of training
        for warmup in (1, 1.0):
            assert type(typing.cast(Linear | Cosine, Schedule.parse(str(kind(0.5, warmup)))).warmup) is type(warmup)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Gaussian(1), "gaussian:1.0"),
        (SAM(1), "sam:1.0"),
        (Linear(1, 1), "linear:1.0,warmup=1"),
        (Gaussian(np.float64(1 / 3)), "gaussian:0.3333333333333333"),
        (Gaussian(np.float32(0.5)), "gaussian:0.5"),
        (Gaussian(0.5, "tile", rows=np.int64(9)), "gaussian:0.5,reference=tile,rows=9"),  # type: ignore[arg-type]
    ],
)
def test_one_text_for_equal_numbers_whatever_their_type(value: Any, text: str) -> None:
    assert str(value) == text


MISTAKES = [
    (NoiseModel, "", "expected a noise model such as gaussian:0.05 (name:value"),
    (NoiseModel, "0.05", "expected a noise model such as gaussian:0.05 (name:value"),
    (NoiseModel, "gaussian=0.05", "got 'gaussian=0.05'; did you mean gaussian:0.05?"),
    (NoiseModel, "rwp = .1", "did you mean rwp:.1?"),
    (NoiseModel, "gauss:0.05", f"expected a noise model ({KNOWN}), got 'gauss:0.05'"),
    (NoiseModel, "gaussian", "gaussian needs sigma, for example gaussian:0.05,reference=layer, got 'gaussian'"),
    (NoiseModel, "gaussian:", "gaussian needs sigma"),
    (NoiseModel, "gaussian:reference=layer", "gaussian needs sigma"),
    (NoiseModel, "gaussian:big", "gaussian: sigma: expected a number, got 'big'"),
    (NoiseModel, "gaussian:-0.1", "gaussian: expected a finite sigma >= 0, got -0.1"),
    (NoiseModel, "gaussian:nan", "expected a finite sigma >= 0, got nan"),
    (NoiseModel, "laplace:inf", "laplace: expected a finite b >= 0, got inf"),
    (NoiseModel, "gaussian:0.1,reference=column", "expected one of filter, layer, tile, tile-column, got 'column'"),
    (NoiseModel, "gaussian:0.1,reading=word", "expected one of std, literal, got 'word'"),
    (NoiseModel, "gaussian:0.1,rows=1.5", "gaussian: rows: expected a whole number, got '1.5'"),
    (NoiseModel, "gaussian:0.1,rows=0", "expected a crossbar of at least 1 x 1, got rows=0"),
    (NoiseModel, "gaussian:0.1,colour=red", "gaussian has no setting 'colour' (it has sigma, reference"),
    (NoiseModel, "gaussian:0.1,sigma=0.2", "gaussian: 'sigma' is given twice"),
    (NoiseModel, "gaussian:reference=layer,0.1", "expected at most 6 values in order, then key=value"),
    (NoiseModel, "laplace:0.1,layer,1,1,1", "expected at most 4 values in order"),
    (NoiseModel, "gaussian(0.1", "expected balanced parentheses"),
    (NoiseModel, "gaussian:0.1)", "expected balanced parentheses"),
    (NoiseModel, "gaussian:0.1+", "expected a number, got '0.1+'"),
    (NoiseModel, "gaussian:0.1+laplace", "laplace needs b"),
    (NoiseModel, "gaussian:0.1+unknown:1", f"expected a noise model ({KNOWN}), got 'unknown:1'"),
    (Gaussian, "laplace:0.1", "expected a gaussian, got 'laplace:0.1'"),
    (
        Method,
        "adam",
        "expected a method (amp, arwp, arwp-mixed, asam, esam, f-sam, g-rst, gsam, looksam, lpf-sgd, mesa, plain, rst, "
        "rwp, rwp-mixed, saf, sam, samson, ssam, vasso), got 'adam'",
    ),
    (Method, "plain:1", "expected at most 0 values"),
    (Method, "plain:rho=1", "plain has no setting 'rho' (it has none)"),
    (Method, "sam:-1", "sam: expected a finite rho >= 0, got -1.0"),
    (Method, "sam:0.1,alpha=2", "sam: expected alpha in [0, 1], got 2.0"),
    (Method, "sam:0.1,sync=maybe", "sam: sync: expected true or false, got 'maybe'"),
    (
        Method,
        "sam:ramp(1)",
        "sam: rho: expected a schedule (constant, cosine, half-normal, linear, normal, off-to-on, quadratic, "
        "uniform), got 'ramp(1)'",
    ),
    (Method, "sam:linear(1,warmup=2.0)", "linear: expected warmup as whole steps or as a fraction in [0, 1], got 2.0"),
    (Method, "rwp:gauss(1)", "rwp: noise: expected a noise model"),
    (Method, "rwp:gaussian(0.1),draws=0", "rwp: expected draws >= 1, got 0"),
    (Method, "rwp:gaussian(0.1),schedule=-1", "rwp: expected a finite factor >= 0"),
    (Method, "esam:0.1,beta=0", "esam: expected beta in (0, 1], got 0.0; 1 perturbs every tensor"),
    (Method, "esam:0.1,beta=1.1", "esam: expected beta in (0, 1], got 1.1"),
    (Method, "esam:0.1,gamma=0", "esam: expected gamma in (0, 1], got 0.0; 1 keeps every sample"),
    (Method, "esam:0.1,beta=1.0,scaling=paper", "esam: expected beta < 1 with scaling=paper"),
    (Method, "looksam:0.1,k=0", "looksam: expected k >= 1 steps from climb to climb, got 0; 5 is usual"),
    (Method, "looksam:0.1,alpha=-1", "looksam: expected a finite alpha >= 0, got -1.0"),
    (Method, "asam:0.5,eta=-1", "asam: expected a finite eta >= 0, got -1.0; 0.01 is usual"),
    (Method, "gsam:0.1,alpha=nan", "gsam: expected a finite alpha >= 0, got nan"),
    (Method, "gsam:0.1,rho_min=0.05", "gsam: expected follow_lr=true with rho_min"),
    (Method, "ssam:0.1,fraction=0", "ssam: expected fraction in (0, 1], got 0.0"),
    (Method, "ssam:0.1,every=0", "ssam: expected every >= 1 steps between masks, got 0"),
    (Method, "saf:-1", "saf: expected a finite lam >= 0, got -1.0"),
    (Method, "saf:0.3,tau=0", "saf: expected a finite temperature tau > 0, got 0.0; 5 is usual"),
    (Method, "saf:0.3,back=0", "saf: expected back >= 1 epochs, got 0; 3 is usual"),
    (Method, "mesa:0.8,beta=1.0", "mesa: expected beta in [0, 1), got 1.0; 0.9995 is usual"),
    (Method, "mesa:0.8,start=-1", "mesa: expected start >= 0 epochs, got -1"),
    (Method, "rst:sam(0.1),p=1.5", "rst: expected p in [0, 1], got 1.5"),
    (Method, "rst:sam(0.1),p=linear(0.7,b=0.5)", "linear: expected a + b in [0, 1], where p ends, got 1.2"),
    (Method, "rst:sam(0.1),p=linear(-1.0,b=0.5)", "linear: expected a + b in [0, 1], where p ends, got -0.5"),
    (Method, "rst:sam(0.1),p=piecewise(2.0)", "piecewise: expected a in [0, 1], got 2.0"),
    (Method, "rst:sam(0.1),p=constant(2.0)", "constant: expected a in [0, 1], got 2.0"),
    (Method, "rst:saf", "rst: expected an inner rule that may miss steps, got saf; use sam"),
    (Method, "rst:g-rst", "rst: expected one coin, got g-rst inside: it would toss the same one"),
    (Method, "g-rst:rwp", "inner: expected a method"),
    (Method, "g-rst:looksam", "g-rst: expected sam, asam, samson, f-sam, vasso, gsam or ssam as inner"),
    (Method, "g-rst:sam(0.1,alpha=0.5)", "g-rst: expected an inner sam without alpha"),
    (Method, "g-rst:sam(0.1),a=-1", "g-rst: expected a finite a >= 0, got -1.0"),
    (Method, "rwp-mixed:0.1,alpha=2", "rwp-mixed: expected alpha in [0, 1], got 2.0; it weighs the clean gradient"),
    (Method, "rwp-mixed:0.1,batches=same,parallel=true", "rwp-mixed: expected batches=different with parallel"),
    (Method, "rwp-mixed:0.1,clean_ranks=1", "rwp-mixed: expected clean_ranks >= 1 with parallel=true, got 1"),
    (Schedule, "linear:-1", "linear: expected a finite maximum >= 0, got -1.0"),
    (Schedule, "off-to-on:1,warmup=soon", "off-to-on: warmup: expected a number, got 'soon'"),
    (ModelSpec, "vgg", "expected a model (deit-s, digits, factory"),
    (ModelSpec, "resnet18:0", "resnet18: expected a width of 1 channel or more, got 0"),
    (ModelSpec, "wrn:28\n10", "with a depth of 10, 16, 22, 28, ..., got '28 10'"),
]


@pytest.mark.parametrize(("family", "text", "fragment"), MISTAKES, ids=[text or "empty" for _, text, _ in MISTAKES])
def test_a_mistake_is_one_line_that_names_what_was_expected(family: type[Described], text: str, fragment: str) -> None:
    with pytest.raises(UserError, match=re.escape(fragment)) as caught:
        family.parse(text)
    assert "\n" not in str(caught.value)
