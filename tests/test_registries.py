"""Every family, member by member, off the registry itself: what is listed is what there is, nothing is forgotten."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from cases import CHANGING, NOISES, STACKED
from families import ROOTS
from methods import METHODS

import noiserobust.cli
from noiserobust.cli.list import listing
from noiserobust.errors import UserError
from noiserobust.minima import Measure
from noiserobust.noise import NoiseModel, Own
from noiserobust.spec import Described, format_value
from noiserobust.spec import listing as static
from noiserobust.spec.fields import settings_of
from noiserobust.training import Method


def members(root: type[Described]) -> dict[str, type[Any]]:
    """What the package itself registers: tests and pages register some of their own."""
    return {name: kind for name, kind in root.registry.items() if kind.__module__.startswith("noiserobust.")}


MEMBERS = {f"{family}-{name}": member for family, root in ROOTS.items() for name, member in members(root).items()}


def root_of(member: type[Any]) -> type[Described]:
    return next(root for root in ROOTS.values() if issubclass(member, root))


def families(kind: type) -> set[type]:
    """All roots: classes that own their registry."""
    own = {kind} if kind is not Described and "registry" in vars(kind) else set()
    return own.union(*(families(below) for below in kind.__subclasses__()))


def test_every_family_is_here() -> None:
    assert families(Described) == set(ROOTS.values())
    assert {name: family.word for name, family in static.FAMILIES.items()} == {n: r.family for n, r in ROOTS.items()}


@pytest.mark.parametrize("family", ROOTS)
def test_the_list_without_an_import_is_the_registry(family: str) -> None:
    listed = static.members(family)
    assert set(listed) == set(members(ROOTS[family]))
    for name, member in members(ROOTS[family]).items():
        assert listed[name].path == f"{member.__module__}:{member.__qualname__}"
        settings = [(s.name, None if s.required else format_value(s.default)) for s in settings_of(member)]
        assert [(name, default) for name, _, default in listed[name].fields] == settings
        assert listed[name].example == member.example


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
class TestMembers:
    def test_it_is_frozen_and_says_what_it_is(self, member: type[Any]) -> None:
        assert dataclasses.is_dataclass(member)
        assert member.__dataclass_params__.frozen
        assert "__doc__" in vars(member)
        summary = static.members(next(f for f, root in ROOTS.items() if issubclass(member, root)))[member.name].summary
        assert len(summary) > 3
        assert "\\" not in summary
        assert "`" not in summary

    def test_its_example_is_of_it_and_reads_back(self, member: type[Any]) -> None:
        assert "example" in vars(member), "each has an example of its own"
        one = root_of(member).parse(member.example)
        assert type(one) is member
        assert root_of(member).parse(str(one)) == one
        assert root_of(member).parse(str(one), imports=False) == one

    def test_its_name_is_taken(self, member: type[Any]) -> None:
        with pytest.raises(UserError, match=f"got '{member.name}', which is that of {member.__module__}:"):
            type("Another", (root_of(member),), {"__module__": "elsewhere"}, name=member.name)
        # The same class once more is a module that was imported again.
        same = {"__module__": member.__module__, "__qualname__": member.__qualname__}
        root = root_of(member)
        try:
            again = type(member.__name__, (root,), same, name=member.name)
            assert root.registry[member.name] is again
        finally:
            root.registry[member.name] = member


def with_typos() -> dict[str, tuple[type[Any], str]]:
    """Every member whose name can be mistaken for no other, with that name mistyped: its last two letters swapped."""
    typos = {
        f"{family}-{name}": (member, name[:-2] + name[-1] + name[-2])
        for family, root in ROOTS.items()
        for name, member in members(root).items()
        if len(name) > 4
    }
    return {case: pair for case, pair in typos.items() if pair[1] not in members(root_of(pair[0]))}


@pytest.mark.parametrize(("member", "typo"), with_typos().values(), ids=with_typos())
def test_a_typo_suggests_a_name(member: type[Any], typo: str) -> None:
    with pytest.raises(UserError, match="did you mean") as caught:
        root_of(member).parse(typo)
    assert "\n" not in str(caught.value)


SCALED = [member for member in members(NoiseModel).values() if member is not Own]
"""What the tiles of an aihwkit model do is theirs alone: test_from_aihwkit.py."""


@pytest.mark.parametrize("member", SCALED, ids=lambda member: member.name)
def test_every_noise_scales(member: type[NoiseModel]) -> None:
    noise = NoiseModel.parse(member.example)
    assert type(noise.scaled(2.0)) is member
    assert noise.scaled(2.0).strength == 2 * noise.strength
    assert noise.strength == 0 or not noise.is_identity
    assert noise.scaled(0.0).is_identity or noise.strength == 0
    swept = noise.scaled(0.5)
    assert (swept.without_strength(swept.strength) == str(swept)) == (noise.strength == 0)
    assert swept.without_strength(-1) == str(swept)


@pytest.mark.parametrize("member", members(Method).values(), ids=members(Method))
def test_every_rule_says_what_it_does(member: type[Method]) -> None:
    """Where its update gradient is taken, or the whole step."""
    own = (member.step, member.whole_step, member.perturbation)
    assert member.name == "plain" or own != (Method.step, Method.whole_step, Method.perturbation)


class TestCaseLists:
    """The hand-written lists that the contracts run over name every member."""

    def test_of_noises(self) -> None:
        written = {part.name for noise in [*NOISES, *CHANGING, *STACKED] for part in noise.stages}
        # Measured chips need files of the very weights: tests/test_measured_chips.py writes them.
        assert written | {"chips"} == {member.name for member in SCALED}

    def test_of_rules(self) -> None:
        assert {Method.parse(text).name for text in METHODS} == set(members(Method))

    def test_of_documented_measures(self) -> None:
        page = (Path(__file__).parent.parent / "docs" / "measures.md").read_text()
        assert not {name for name in members(Measure) if f"`{name}" not in page}


class TestListing:
    @pytest.mark.parametrize("family", [None, *ROOTS])
    def test_it_fits_a_terminal_and_names_everything(self, family: Any) -> None:
        text = listing(family)
        assert max(map(len, text.splitlines())) <= 80
        for name in members(ROOTS[family]) if family else ROOTS:
            assert name in text
        if family:
            for member in static.members(family).values():
                assert member.example in text
                assert all(name in text or name.upper() in text for name, _, _ in member.fields)

    def test_an_unknown_family(self) -> None:
        with pytest.raises(UserError, match=r"expected noises, methods, .* got 'noise'; did you mean noises\?"):
            listing("noise")  # type: ignore[arg-type]

    def test_on_the_command_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        noiserobust.cli.main(["list", "methods"])
        assert "rwp:gaussian(0.1),schedule=quadratic(1.0)" in capsys.readouterr().out


class TestCheck:
    @pytest.mark.parametrize(
        ("family", "text"),
        [
            *[(family, member.example) for family, root in ROOTS.items() for member in members(root).values()],
            ("noises", "gaussian:0.02,reference=layer+laplace:0.01"),
            ("noises", "cases:Nothing(0.1)"),  # that there is a module is all that is looked at
            ("converters", "none"),
            ("data", "."),
        ],
    )
    def test_what_could_be_meant_passes(self, family: str, text: str) -> None:
        static.check(family, text)

    @pytest.mark.parametrize(
        ("family", "text", "fragment"),
        [
            ("noises", "gausian:0.1", "got 'gausian:0.1'; did you mean gaussian?"),
            ("noises", "gaussian:0.1+laplac:0.1", "got 'laplac:0.1'; did you mean laplace?"),
            ("methods", "rwb:gaussian(0.2)", "got 'rwb:gaussian(0.2)'; did you mean rwp?"),
            ("models", "resnet19", "expected a model (deit-s, digits"),
            ("data", "cifar11", "did you mean cifar10?"),
            ("metrics", "accuracy_of", "one of your own is package.module:Name"),
            ("noises", "gaussian:0.1)", "expected balanced parentheses"),
        ],
    )
    def test_what_could_not_is_one_line(self, family: str, text: str, fragment: str) -> None:
        with pytest.raises(UserError) as caught:
            static.check(family, text)
        assert fragment in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("root", ROOTS.values(), ids=ROOTS)
@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000,
        "(" * 10_000 + ")" * 10_000,
        "a(" * 10_000 + ")" * 10_000,
        "rst:" * 10_000 + "sam",
        "rst(" * 40 + "sam" + ")" * 40,
        "[" * 500 + "]" * 500,
        "a:" + "b," * 5_000,
        "+" * 2_000,
    ],
    ids=lambda text: text[:8],
)
def test_no_text_is_too_deep_or_too_long(root: type[Described], text: str) -> None:
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        root.parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000
    assert time.process_time() - began < 5


def test_thousands_of_stages_are_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEROBUST_LIMITS", "parts=2000")
    text = "+".join(["gaussian:0.1"] * 2_000)
    noise = NoiseModel.parse(text)
    assert len(noise.stages) == 2_000
    assert str(noise) == text
    assert Method.parse(f"rwp:{noise.nested()}") == Method.parse(f"rwp:{noise.nested()}")


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"there is no module nosuch\.module to import"):
        NoiseModel.parse("nosuch.module:Noise(0.1)")
    with pytest.raises(UserError, match=r"there is no module nosuch\.module to import"):
        static.check("noises", "nosuch.module:Noise(0.1)")
