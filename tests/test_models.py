"""Networks: their sizes and shapes against published ones, what every one of them must keep to, and that they learn."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noiserobust import Stream, coverage, perturbed
from noiserobust.cli.models import PAPERS
from noiserobust.data import Batches, load
from noiserobust.errors import UserError
from noiserobust.models import ModelSpec, build, checked_forward, cost
from noiserobust.rng import seeded
from noiserobust.storage.identity import network_digest
from noiserobust.storage.weights import load_weights

SMALL = {
    "digits:4": 8,
    "resnet9:4": 32,
    "resnet18:4": 32,
    "resnet34:4": 32,
    "resnet50:4": 32,
    "resnet101:2": 32,
    "wrn:10-2,dropout=0.3,width=4": 32,
    "transformer:8,heads=2": 1,
    "vgg16-bn:4": 32,
    "pyramidnet:20,alpha=11,width=4": 30,
    "vit-cifar:32,depth=2": 32,
    "vit-s16:24,image_size=32,depth=2": 32,
    "vit-s32:24,image_size=64,depth=2": 64,
    "deit-s:24,image_size=32,depth=2,resize=true": 28,
    "torchvision:shufflenet_v2_x0_5": 64,
    "torchvision:googlenet": 64,
}
"""A small member of every family, and the pixels a side it is tried on."""
ON_META = [spec for spec in PAPERS if spec != "digits"]


def on_meta(spec: str, channels: int = 3, classes: int = 10) -> nn.Module:
    """The network without memory for its weights: its shapes are all that is asked for."""
    with torch.device("meta"):
        return build(spec, channels, classes)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(spec: str, size: int, names: list[str], classes: int = 10) -> list[tuple[int, ...]]:
    """Output shapes, without the batch, of the parts called ``names``."""
    model, seen = on_meta(spec, 3, classes), {}
    for name in names:
        part = model.get_submodule(name)
        part.register_forward_hook(lambda _m, _x, out, name=name: seen.update({name: tuple(out.shape[1:])}))
    model(torch.empty(2, 3, size, size, device="meta"))
    return [seen[name] for name in names]


def convolutions(spec: str, kernel: int) -> int:
    return sum(isinstance(m, nn.Conv2d) and m.kernel_size[0] == kernel for m in on_meta(spec).modules())


def wide_resnet_parameters(depth: int, k: int, classes: int) -> int:
    """Table 1 of Zagoruyko and Komodakis: weights of the convolutions, two numbers per normalised channel, the head."""
    total, inputs = 3 * 16 * 9, 16
    for width in (16 * k, 32 * k, 64 * k):
        for block in range((depth - 4) // 6):
            total += 9 * inputs * width + 9 * width * width + 2 * inputs + 2 * width
            total += inputs * width if block == 0 else 0
            inputs = width
    return total + 2 * inputs + (inputs + 1) * classes


class TestSizes:
    @pytest.mark.parametrize(
        ("spec", "channels", "classes", "count"),
        [
            # kuangliu's pytorch-cifar, whose ResNet-18 the papers use; 100 classes have 90 more rows and biases.
            ("resnet18", 3, 10, 11_173_962),
            ("resnet18", 3, 100, 11_173_962 + 90 * 513),
            ("resnet18", 1, 10, 11_173_962 - 2 * 9 * 64),
            ("resnet34", 3, 10, 21_282_122),
            ("resnet50", 3, 10, 23_520_842),
            ("resnet101", 3, 10, 42_512_970),
            # Page's network (6,573,120) and the bias of its head, as summaries of it are published.
            ("resnet9", 3, 10, 6_573_130),
            # imgclsmob's pytorchcv asserts these; the paper rounds them to 17.1 M and 36.5 M.
            ("wrn:16-10", 3, 10, 17_116_634),
            ("wrn:28-10", 3, 10, 36_479_194),
            ("wrn:28-10", 3, 100, 36_536_884),
            # The paper's Table 5: 11.0 M. The two others of the family by its formula.
            ("wrn:16-8", 3, 10, 10_961_370),
            ("wrn:16-5", 3, 10, wide_resnet_parameters(16, 5, 10)),
            ("wrn:16-15", 3, 100, wide_resnet_parameters(16, 15, 100)),
            # chenyaofo's pytorch-cifar-models, vgg16_bn.
            ("vgg16-bn", 3, 10, 15_253_578),
            # pytorchcv's pyramidnet110_a270, for CIFAR-10 and CIFAR-100.
            ("pyramidnet", 3, 10, 28_485_477),
            ("pyramidnet", 3, 100, 28_511_307),
            # vision-transformers-cifar10 has 9,523,722: without biases of queries, keys and values (6 x 3 x 512).
            ("vit-cifar", 3, 10, 9_523_722 + 6 * 3 * 512),
            # timm's vit_small_patch16_224, deit_small_patch16_224 and vit_small_patch32_224.
            ("vit-s16", 3, 1000, 22_050_664),
            ("deit-s", 3, 1000, 22_050_664),
            ("vit-s32", 3, 1000, 22_878_952),
            ("digits", 1, 10, 9 * (16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 65 * 10),
        ],
    )
    def test_parameters_are_the_published_ones(self, spec: str, channels: int, classes: int, count: int) -> None:
        assert parameters(on_meta(spec, channels, classes)) == count

    def test_the_formula_agrees_with_what_is_published(self) -> None:
        assert wide_resnet_parameters(28, 10, 10) == 36_479_194
        assert wide_resnet_parameters(16, 8, 10) == 10_961_370

    @pytest.mark.parametrize("name", ["resnet50", "resnet152", "mobilenet_v2", "vit_b_16", "convnext_tiny"])
    def test_torchvisions_own_figures(self, name: str) -> None:
        from torchvision.models import get_model_weights

        published = next(iter(get_model_weights(name))).meta
        found = cost(f"torchvision:{name}")
        assert found.parameters == published["num_params"]
        # It lists multiplications with their additions, in 10^9, rounded to three places.
        assert abs(found.forward / 2e9 - published["_ops"]) < 0.006

    def test_residual_stages(self) -> None:
        names = ["stem", *(f"stages.{stage}" for stage in range(4)), "head"]
        basic = [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (10,)]
        assert shapes("resnet18", 32, names) == shapes("resnet34", 32, names) == basic
        wide = [(64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4), (10,)]
        assert shapes("resnet50", 32, names) == shapes("resnet101", 32, names) == wide
        # 3 x 3 and 1 x 1 convolutions: the stem and 2 per basic block, or 1 and 2 per bottleneck; one per shortcut.
        counts = {spec: (convolutions(spec, 3), convolutions(spec, 1)) for spec in ("resnet18", "resnet34", "resnet50")}
        assert counts == {"resnet18": (17, 3), "resnet34": (33, 3), "resnet50": (17, 36)}
        assert (convolutions("resnet101", 3), convolutions("resnet101", 1)) == (34, 70)
        shortcuts = [n for n, m in on_meta("resnet18").named_modules() if getattr(m, "kernel_size", 0) == (1, 1)]
        assert shortcuts == [f"stages.{stage}.0.downsample.conv" for stage in (1, 2, 3)]

    def test_other_stages(self) -> None:
        assert shapes("wrn:28-10", 32, ["stem", "stages.0", "stages.1", "stages.2"]) == [
            *((16, 32, 32), (160, 32, 32), (320, 16, 16), (640, 8, 8))
        ]
        assert (convolutions("wrn:28-10", 3), convolutions("wrn:28-10", 1)) == (25, 3)
        assert shapes("resnet9", 32, ["stem", "stage1", "stage2", "stage3", "pool"]) == [
            *((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 1, 1))
        ]
        assert shapes("vgg16-bn", 32, ["features", "classifier.0"]) == [(512, 1, 1), (512,)]
        assert (convolutions("vgg16-bn", 3), convolutions("resnet9", 3)) == (13, 8)
        # 110 layers: the stem, 54 blocks of two convolutions, the head. Each block is 270 / 54 = 5 channels wider.
        blocks = [f"stages.{stage}.{block}" for stage in range(3) for block in range(18)]
        sides = [32] * 18 + [16] * 18 + [8] * 18
        assert shapes("pyramidnet", 32, blocks) == [(16 + 5 * (k + 1), s, s) for k, s in enumerate(sides)]
        assert (convolutions("pyramidnet", 3), convolutions("pyramidnet", 1)) == (109, 0)

    @pytest.mark.parametrize(
        ("spec", "size", "layers", "tokens", "width"),
        [
            *(("vit-cifar", 32, 6, 65, 512), ("vit-s16", 224, 12, 197, 384)),
            *(("vit-s32", 224, 12, 50, 384), ("deit-s", 224, 12, 197, 384)),
        ],
    )
    def test_transformers(self, spec: str, size: int, layers: int, tokens: int, width: int) -> None:
        names = [f"encoder.layers.encoder_layer_{layer}" for layer in range(layers)]
        assert shapes(spec, size, names) == [(tokens, width)] * layers
        dropouts = {m.p for m in on_meta(spec).modules() if isinstance(m, nn.Dropout)}
        assert dropouts == {0.1 if spec == "vit-cifar" else 0.0}


class TestCost:
    def test_by_hand(self) -> None:
        macs = 9 * 64 * (4 + 4 * 8) + 9 * 16 * 8 * 16 + 16 * 10
        first = 9 * 64 * 4
        found = cost("digits:4")
        assert (found.forward, found.forward_backward) == (2 * macs, 2 * (3 * macs - first))

    @pytest.mark.parametrize(
        ("spec", "size", "first"),
        [
            ("resnet18", 32, 27 * 64 * 32**2),
            ("wrn:16-8", 32, 27 * 16 * 32**2),
            ("vit-cifar", 32, 3 * 4 * 4 * 512 * 8**2),
            ("torchvision:mobilenet_v2", 224, 27 * 32 * 112**2),  # depthwise: torch's own formula gives 20 passes
        ],
    )
    def test_a_backward_pass_is_two_forward_passes_without_the_images_gradient(
        self, spec: str, size: int, first: int
    ) -> None:
        found = cost(spec)
        assert found.forward_backward == 3 * found.forward - 2 * first

    def test_published_multiplications(self) -> None:
        # Published summaries of Page's network: 379.27 M "mult-adds", with a few of the norms in it.
        assert abs(cost("resnet9").forward / 2e6 - 379.27) < 0.05
        # DeiT's paper rounds to 4.6 G, He et al. theirs to 3.8 G (which counts no shortcuts).
        assert round(cost("deit-s").forward / 2e9, 1) == 4.6

    def test_it_grows_with_what_is_asked(self) -> None:
        assert cost("resnet18:4", size=64).forward > 3.9 * cost("resnet18:4").forward
        assert cost("resnet18:4", classes=11).parameters == cost("resnet18:4").parameters + 33
        assert cost("resnet18:4", channels=1).parameters == cost("resnet18:4").parameters - 2 * 9 * 4

    def test_nothing_random_and_nothing_downloaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        state = torch.get_rng_state()
        monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)
        assert cost("torchvision:squeezenet1_1,weights=DEFAULT").parameters == 1_235_496
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize(
        ("spec", "options", "message"),
        [
            ("vgg16-bn:4", {"size": 8}, "takes inputs of shape (3, 8, 8), got vgg16-bn:4: Given input size: (32x1x1)"),
            ("vit-cifar:32", {"size": 28}, "got vit-cifar:32: Wrong image height! Expected 32 but got 28!"),
            ("digits:4", {"size": 0}, "expected channels, size and classes >= 1, got 1, 0 and 10"),
        ],
    )
    def test_refusals(self, spec: str, options: dict[str, int], message: str) -> None:
        with pytest.raises(UserError) as caught:
            cost(spec, **options)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", SMALL)
class TestContract:
    """What every definition keeps to."""

    @pytest.mark.parametrize("channels", [3, 1])
    def test_logits_and_gradients(self, text: str, channels: int) -> None:
        with seeded(Stream(0, "model")):
            model = build(text, channels, 7)
            inputs = ModelSpec.parse(text).inputs(2, channels, SMALL[text])
            logits = model(torch.rand(inputs.shape).to(inputs.dtype))
            logits.sum().backward()
        assert logits.shape == (2, 7)
        without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert not without

    def test_weights_follow_the_named_stream(self, text: str) -> None:
        state = torch.get_rng_state()

        def named(seed: int) -> str:
            with seeded(Stream(seed, "model")):
                return network_digest(build(text, 3, 5))

        assert named(0) == named(0)
        assert named(0) != named(1)
        assert torch.equal(torch.get_rng_state(), state)

    def test_no_crossbar_weight_is_skipped(self, text: str) -> None:
        rows = coverage(build(text, 3, 5)).rows
        digital = {row.name for row in rows if not row.noisy and len(row.shape) > 1}
        # Looked up, or added to the tokens, not multiplied with them: no crossbar.
        assert digital <= {"class_token", "encoder.pos_embedding", "position", "embedding.weight"}
        assert all(len(row.shape) > 1 for row in rows if row.noisy)

    def test_noise_reaches_every_layer_and_leaves_no_trace(self, text: str) -> None:
        with seeded(Stream(0, "model")):
            model = build(text, 3, 5).eval()
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.constant_(parameter, 0.1)  # torchvision's ViT begins with a head of zeros: noise of size zero
        clean = {name: value.clone() for name, value in model.named_parameters()}
        before = network_digest(model)
        # A head that is tied to an embedding has a parameter of its own meanwhile.
        noisy = {row.name for row in coverage(model).rows if row.noisy}

        def moved() -> set[str]:
            same = {name for name, value in model.named_parameters() if torch.equal(value, clean.get(name, value + 1))}
            return {name for name, _ in model.named_parameters()} - same

        with pytest.raises(KeyError, match="inside"), perturbed(model, "gaussian:0.1", seed=0):
            raise KeyError("inside" if moved() == noisy else f"only {moved()}")
        assert network_digest(model) == before


def test_every_family_is_tried() -> None:
    # Other test modules register models of their own.
    own = {name for name, member in ModelSpec.registry.items() if member.__module__.startswith("noiserobust.")}
    assert {text.split(":")[0] for text in SMALL} == own - {
        "factory",
        "lora",
        "transformers",
    }  # those have no size of their own


def test_existing_runs_keep_their_weights_and_names() -> None:
    """The bits that resnet18 began with before it had siblings."""
    for text, digest in (("resnet18:8", "cbb89287779073ef"), ("resnet18:16", "cbfaac37d5c7ff71")):
        with seeded(Stream(0, "init")):
            state = build(text, 3, 10).state_dict()
        found = hashlib.sha256()
        for name, value in state.items():
            found.update(name.encode() + value.numpy().tobytes())
        assert found.hexdigest()[:16] == digest
    assert [str(ModelSpec.parse(text)) for text in ("resnet18", "resnet18:width=16", "digits:8")] == [
        *("resnet18:64", "resnet18:16", "digits:8")
    ]


def test_initial_weights_are_pytorchs() -> None:
    bound = (8 * 9) ** -0.5  # uniform within 1 / sqrt(inputs)
    conv = build("resnet18:8", 3, 10).stages[0][0].conv1.weight
    assert 0.95 * bound < conv.abs().max() <= bound


class TestPlainTwins:
    def test_a_pyramid_block(self) -> None:
        from noiserobust.models.pyramidnet import PyramidBlock

        with seeded(Stream(0)):
            block, x = PyramidBlock(3, 5, stride=2).eval(), torch.rand(2, 3, 7, 7)
        inner = block.norm3(block.conv2(F.relu(block.norm2(block.conv1(block.norm1(x))))))
        expected = inner.clone()
        expected[:, :3] += F.avg_pool2d(x, 2, ceil_mode=True)
        torch.testing.assert_close(block(x), expected)

    @pytest.mark.parametrize(("inputs", "stride"), [(4, 1), (4, 2), (6, 1)])
    def test_a_wide_block(self, inputs: int, stride: int) -> None:
        from noiserobust.models.wide_resnet import PreActivationBlock

        with seeded(Stream(0)):
            block, x = PreActivationBlock(inputs, 6, stride, 0.5).eval(), torch.randn(2, inputs, 8, 8)
        active = F.relu(block.norm1(x))
        expected = block.conv2(F.relu(block.norm2(block.conv1(active))))
        shortcut = x if block.shortcut is None else F.conv2d(active, block.shortcut.weight, stride=stride)
        assert (block.shortcut is None) == (inputs == 6 and stride == 1)
        torch.testing.assert_close(block(x), expected + shortcut)

    def test_deit_as_it_is_published(self) -> None:
        """A checkpoint with timm's names, computed with plain products, equals the network it is loaded into."""
        width, heads, depth = 24, 6, 2
        with seeded(Stream(0)):
            shape = {"cls_token": (1, 1, width), "pos_embed": (1, 5, width), "patch_embed.proj": (width, 3, 16, 16)}
            for block in range(depth):
                shape |= {f"blocks.{block}.norm1": (width,), f"blocks.{block}.norm2": (width,)}
                shape |= {f"blocks.{block}.attn.qkv": (3 * width, width), f"blocks.{block}.attn.proj": (width, width)}
                shape |= {f"blocks.{block}.mlp.fc1": (4 * width, width), f"blocks.{block}.mlp.fc2": (width, 4 * width)}
            shape |= {"norm": (width,), "head": (5, width)}
            weights: dict[str, Tensor] = {}
            for name, size in shape.items():
                alone = name in ("cls_token", "pos_embed")
                weights[name if alone else f"{name}.weight"] = 0.2 * torch.randn(size)
                if not alone:
                    weights[f"{name}.bias"] = 0.2 * torch.randn(size[0])
            images = torch.randn(2, 3, 32, 32)

        def linear(x: Tensor, name: str) -> Tensor:
            return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

        def norm(x: Tensor, name: str) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]

        patches = images.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).reshape(2, 4, -1)
        tokens = patches @ weights["patch_embed.proj.weight"].view(width, -1).T + weights["patch_embed.proj.bias"]
        x = torch.cat([weights["cls_token"].expand(2, -1, -1), tokens], 1) + weights["pos_embed"]
        for block in (f"blocks.{b}" for b in range(depth)):
            q, k, v = (
                linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").view(2, 5, 3, heads, -1).permute(2, 0, 3, 1, 4)
            )
            mixed = ((q @ k.mT) * (width // heads) ** -0.5).softmax(-1) @ v
            x = x + linear(mixed.transpose(1, 2).reshape(2, 5, width), f"{block}.attn.proj")
            x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        expected = linear(norm(x, "norm")[:, 0], "head")

        spec = ModelSpec.parse(f"deit-s:{width},image_size=32,depth={depth}")
        network = spec.build(3, 5).eval()
        load_weights(network, weights, "deit.pth", spec.aliases)
        torch.testing.assert_close(network(images), expected, atol=1e-5, rtol=1e-4)

    def test_resizing_is_inside_the_network(self) -> None:
        with seeded(Stream(0)):
            network = build("vit-s16:24,image_size=64,depth=1,resize=true", 3, 5).eval()
            nn.init.normal_(network.heads.head.weight)
            images = torch.rand(2, 3, 32, 32)
        larger = F.interpolate(images, (64, 64), mode="bilinear", antialias=True)
        torch.testing.assert_close(network(images), network(larger))


@pytest.mark.parametrize(
    ("spec", "renamed"),
    [
        # xternalz's WideResNet-pytorch.
        (
            "wrn:10-1,width=4",
            [("^stem", "conv1"), ("^head", "fc"), ("^norm", "bn1"), ("shortcut", "convShortcut")]
            + [(rf"^stages\.{stage}", f"block{stage + 1}.layer") for stage in range(3)],
        ),
        # dyhan0920's PyramidNet-PyTorch.
        (
            "pyramidnet:8,alpha=6,width=4",
            [(r"^stem\.conv", "conv1"), (r"^stem\.norm", "bn1"), ("^head", "fc"), ("^norm", "bn_final")]
            + [(rf"^stages\.{stage}", f"layer{stage + 1}") for stage in range(3)],
        ),
    ],
)
def test_names_of_the_reference_implementations(spec: str, renamed: list[tuple[str, str]]) -> None:
    definition = ModelSpec.parse(spec)
    source, target = definition.build(3, 5), definition.build(3, 5)
    theirs = {}
    for name, value in source.state_dict().items():
        for pattern, replacement in [*renamed, (r"\.norm", ".bn")]:
            name = re.sub(pattern, replacement, name)
        theirs[name] = value
    assert len(theirs.keys() & source.state_dict().keys()) == 0
    load_weights(target, theirs, "file", definition.aliases)
    assert network_digest(target) == network_digest(source)


class TestTorchvision:
    @pytest.fixture
    def published(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Tensor]:
        """SqueezeNet 1.1 as if torchvision had downloaded it: its own weights with 1,000 classes."""
        from torchvision.models import squeezenet1_1

        with seeded(Stream(5)):
            state = squeezenet1_1().state_dict()
        state["classifier.1.bias"] += 1  # zeros, else: nothing would tell them from new ones
        monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
        monkeypatch.setattr(
            "torchvision.models.SqueezeNet1_1_Weights.get_state_dict", lambda *_args, **_options: dict(state)
        )
        return state

    def test_published_weights_are_loaded(self, published: dict[str, Tensor]) -> None:
        network = build("torchvision:squeezenet1_1,weights=DEFAULT", 3, 1000)
        assert all(torch.equal(value, published[name]) for name, value in network.state_dict().items())

    def test_other_classes_get_a_new_head(self, published: dict[str, Tensor]) -> None:
        own = build("torchvision:squeezenet1_1,weights=IMAGENET1K_V1", 3, 7).state_dict()
        fresh = {name for name, value in own.items() if not torch.equal(value, published[name][: len(value)])}
        assert fresh == {"classifier.1.weight", "classifier.1.bias"}
        assert own["classifier.1.weight"].shape[0] == 7

    def test_weights_that_belong_elsewhere(self, published: dict[str, Tensor]) -> None:
        published["features.0.weight"] = published["features.0.weight"][:3]
        with pytest.raises(UserError, match=r"expected published weights of SqueezeNet, got others: features.0.weight"):
            build("torchvision:squeezenet1_1,weights=DEFAULT", 3, 1000)

    def test_default_is_named_for_what_it_is(self) -> None:
        text = str(ModelSpec.parse("torchvision:resnet50,weights=DEFAULT"))
        assert text == "torchvision:resnet50,weights=IMAGENET1K_V2"
        assert str(ModelSpec.parse(text).without_weights()) == "torchvision:resnet50"

    def test_without_a_network_it_says_what_to_put_where(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def no_network(*_args: object, **_options: object) -> None:
            raise URLError("no route")

        monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
        monkeypatch.setattr("urllib.request.urlopen", no_network)
        monkeypatch.setattr("torch.hub.urlopen", no_network)
        with pytest.raises(UserError) as caught:
            build("torchvision:squeezenet1_1,weights=DEFAULT", 3, 10)
        message = str(caught.value)
        assert (
            f"in {tmp_path}/checkpoints, got none, and no download (<urlopen error no route>): put https://" in message
        )
        assert message.endswith("/squeezenet1_1-b8a52dc0.pth there")
        assert "\n" not in message

    @pytest.mark.parametrize("content", [b"", b"<html>", b"cos\nmkdir\n(S'owned'\ntR."])
    def test_of_another_file_that_lies_there_no_code_runs(
        self, content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A download that was cut off, a page of a login, a pickle of somebody's."""
        monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth").write_bytes(content)
        with pytest.raises(UserError, match="expected the weights of torchvision:squeezenet1_1"):
            build("torchvision:squeezenet1_1,weights=DEFAULT", 3, 10)
        assert not (tmp_path / "owned").exists()


class TestFactory:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "my_nets.py").write_text(
            "import torch\n"
            "def small(channels, classes):\n"
            "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * 64, classes))\n"
            "def number(channels, classes): return 5\n"
            "def broken(channels, classes): raise ZeroDivisionError('first\\nsecond')\n"
            "class Inside:\n    small = staticmethod(small)\n"
        )
        monkeypatch.chdir(tmp_path)
        yield
        sys.modules.pop("my_nets", None)

    def test_a_function_in_the_present_folder(self) -> None:
        before = list(sys.path)
        spec = ModelSpec.parse("factory:my_nets:small")
        assert str(spec) == "factory:my_nets:small"
        assert ModelSpec.parse(spec.nested()) == spec
        assert spec.build(1, 3)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
        assert ModelSpec.parse("factory:my_nets:Inside.small").build(1, 3)
        assert sys.path == before
        assert cost(spec, 1, 8, 3).parameters == 65 * 3

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("my_nets", "factory: expected package.module:function, got 'my_nets'"),
            ("my_nets:", "factory: expected package.module:function, got 'my_nets:'"),
            ("my_nets:broken", "expected a function of channels and classes, got ZeroDivisionError: first"),
            ("my_nets:number", "expected a function that returns a torch.nn.Module, got int"),
        ],
    )
    def test_refusals(self, target: str, message: str) -> None:
        with pytest.raises(UserError) as caught:
            build(f"factory:{target}", 1, 3)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "channels", "message"),
    [
        ("resnet18:0", 3, "resnet18: expected a width of 1 channel or more, got 0"),
        ("digits:-4", 1, "digits: expected a width of 1 channel or more, got -4"),
        ("resnet18", 0, "expected 1 channel and 1 class or more, got 0 and 10"),
        ("wrn:28", 3, "wrn: expected depth-widening such as 28-10, with a depth of 10, 16, 22, 28, ..., got '28'"),
        ("wrn:20-8", 3, "wrn: expected depth-widening such as 28-10, with a depth of 10, 16, 22, 28, ..., got '20-8'"),
        ("wrn:16-8,dropout=1", 3, "wrn: expected dropout in [0, 1), got 1.0"),
        ("pyramidnet:100", 3, "pyramidnet: expected a depth of 8, 14, 20, ..., 110, ..., got 100"),
        ("pyramidnet:110,alpha=-1", 3, "pyramidnet: expected alpha >= 0, got -1"),
        ("vit-s16:100", 3, "vit-s16: expected width to be a multiple of heads (6), got 100"),
        ("vit-s16:384,image_size=100", 3, "vit-s16: expected image_size to be a multiple of patch (16), got 100"),
        ("vit-s16:384,depth=0", 3, "vit-s16: expected depth >= 1, got 0"),
        (
            "torchvision:resnet51",
            3,
            "torchvision: expected a network of torchvision.models (resnet50, resnet18, resnet152), got 'resnet51'",
        ),
        (
            "torchvision:resnet50,weights=V3",
            3,
            "torchvision:resnet50: expected published weights (IMAGENET1K_V1, IMAGENET1K_V2), got 'V3'",
        ),
        (
            "torchvision:inception_v3,weights=DEFAULT",
            3,
            "torchvision:inception_v3: expected no weights: its published ones scale the input in their own way, "
            "got 'DEFAULT'",
        ),
        (
            "torchvision:resnet18,weights=DEFAULT",
            1,
            "torchvision:resnet18,weights=IMAGENET1K_V1: expected 3 channels with published weights, got 1; "
            "leave weights out",
        ),
    ],
)
def test_refusals(spec: str, channels: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(spec, channels, 10)
    assert str(caught.value) == message


def test_what_is_no_classifier() -> None:
    with pytest.raises(
        UserError, match=r"expected a network that gives logits of shape \(B, C\), got \(2, 4, 4, 4\) from x"
    ):
        checked_forward(nn.Conv2d(3, 4, 3, padding=1), torch.zeros(2, 3, 4, 4), "x")


def test_digits_net_learns_digits() -> None:
    splits = load("digits")
    with seeded(Stream(0, "model")):
        model = build("digits", 1, 10)
    epochs, batches = 6, Batches(splits.train, 32, stream=Stream(0), crop=splits.crop)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * len(batches) + 1)
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.inputs), batch.labels).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    accuracy = (model(splits.test.normalized()).argmax(1) == splits.test.labels).float().mean()
    print(f"accuracy {accuracy:.3f}")
    assert accuracy > 0.95
