"""Language models as their users have them: folders of transformers, texts, adapters; against loops of one's own."""

from __future__ import annotations

import copy
import json
import math
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noiserobust import Stream, UserError, evaluate, perturbed
from noiserobust.analog.converters import converted
from noiserobust.cli import main
from noiserobust.data import Dataset, load
from noiserobust.data.text import windows
from noiserobust.evaluation import Where, summarize
from noiserobust.models import ModelSpec, Transformers, build
from noiserobust.rng import seeded
from noiserobust.storage.checkpoints import find_checkpoints, read_checkpoint
from noiserobust.storage.rows import read_rows
from noiserobust.training import Engine, Method, Progress

pytestmark = pytest.mark.filterwarnings("ignore")  # other libraries' own

TEXT = "seven plus twelve is nineteen. four plus one is five. two plus two is four. – "


def llama(**settings: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 256, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0}
    with seeded(Stream(0, "llama")):
        return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **settings)).double().eval()


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=256, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    with seeded(Stream(0, "gpt2")):
        model = GPT2LMHeadModel(config).double().eval()
        for block in model.modules():
            if hasattr(block, "weight"):
                nn.init.normal_(block.weight, std=0.4)
    return model


MODELS = {"llama": llama, "gpt2": gpt2}


@pytest.fixture(params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    MODELS[request.param]().save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


@torch.no_grad()
def nats(model: nn.Module, ids: Tensor) -> Tensor:
    """-log p of each token but the first, one forward pass for each token: no batch, no padding, no shift."""
    passes = [model(input_ids=ids[None, :end]).logits[0, -1].log_softmax(0)[ids[end]] for end in range(1, len(ids))]
    return -torch.stack(passes)


class TestWindows:
    @pytest.mark.parametrize(("count", "length"), [(2, 2), (3, 2), (10, 4), (11, 4), (12, 4), (5, 9), (9, 9), (10, 9)])
    @pytest.mark.parametrize("stride", [None, 1])
    def test_each_token_but_the_first_counts_once(self, count: int, length: int, stride: int | None) -> None:
        ids, labels = windows(torch.arange(count), length, stride)
        assert labels[:, 1:][labels[:, 1:] != -100].tolist() == list(range(1, count))
        assert ids.shape[1] == min(length, count)
        assert torch.equal(ids.diff(dim=1), torch.ones_like(ids[:, 1:]))
        assert ((labels == ids) | (labels == -100)).all()

    def test_characters_bytes_and_parts(self, tmp_path: Path) -> None:
        file = tmp_path / "text.txt"
        file.write_text(TEXT)
        whole = load(f"text:{file},tokenizer=bytes,length=1000").test
        assert bytes(whole.whole.inputs[0].tolist()).decode() == TEXT
        parts = load(f"text:{file},tokenizer=characters,length=1000,train=0.5")
        letters = sorted(set(TEXT))
        read = ["".join(letters[i] for i in part.whole.inputs[0].tolist()) for part in (parts.train, parts.test)]
        assert "".join(read) == TEXT
        assert len(read[0]) == round(len(TEXT) / 2)

    @pytest.mark.parametrize(
        ("settings", "fragment"),
        [
            ("", "expected tokenizer=bytes, tokenizer=characters or a folder"),
            (",tokenizer=nowhere", "got 'nowhere'"),
            (",tokenizer=bytes,length=1", "expected a length of 2 tokens or more"),
            (",tokenizer=bytes,length=8,stride=8", "stride from 1 to length - 1"),
            (",tokenizer=bytes,train=1.5", "expected a share between 0 and 1"),
            (",tokenizer=bytes,train=other.txt", "expected a text file in UTF-8, got other.txt"),
        ],
    )
    def test_refusals(self, settings: str, fragment: str, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text(TEXT)
        with pytest.raises(UserError) as caught:
            load(f"text:{tmp_path / 'text.txt'}{settings}")
        assert fragment in str(caught.value)

    def test_without_a_training_part_training_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text(TEXT)
        data = load(f"text:{tmp_path / 'text.txt'},tokenizer=bytes")
        with pytest.raises(UserError, match="expected text to train on"):
            len(data.train)

    def test_sums_are_tokens_too(self) -> None:
        both, letters = load("sums").test, load("sums:tokens").test.whole
        assert (letters.labels[:, 1:] != -100).sum() == 3000 + 32 - 1
        assert torch.equal(letters.inputs[0, :32], both.images[0])


class TestPerplexity:
    @pytest.mark.parametrize("length", [7, 16, 1000])
    def test_a_text_is_what_a_loop_says(self, folder: Path, tmp_path: Path, length: int) -> None:
        (tmp_path / "text.txt").write_text(TEXT[:40])
        ids = torch.tensor(list(TEXT[:40].encode()))
        rows = evaluate(folder, f"text:{tmp_path / 'text.txt'},tokenizer=bytes,length={length}", "gaussian:0.2", 1).rows
        model = MODELS[folder.name]()
        with perturbed(model, "gaussian:0.2", draw=0):
            seen = [nats(model, row)[kept[1:] != -100] for row, kept in zip(*windows(ids, length), strict=True)]
        loss = float(torch.cat(seen).mean())
        assert len(torch.cat(seen)) == 39
        values = rows.set_index("metric")["value"]
        assert values["loss"] == pytest.approx(loss, abs=1e-10)
        assert values["perplexity"] == pytest.approx(math.exp(loss), rel=1e-10)
        assert rows["task"].iloc[0] == "tokens:shift=true"

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("name", MODELS)
    def test_padding_and_ignored_labels(self, name: str, side: str) -> None:
        """Unequal lengths, padded; some tokens are prompts that do not count."""
        model = MODELS[name]()
        texts = [torch.randint(1, 256, (n,), generator=torch.Generator().manual_seed(n)) for n in (5, 9, 3)]
        ids, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
        labels = torch.full((3, 9), -100)
        losses = []
        for row, text in enumerate(texts):
            place = slice(9 - len(text), 9) if side == "left" else slice(0, len(text))
            ids[row, place], mask[row, place], labels[row, place] = text, 1, text
            labels[row, place.start : place.start + 2] = -100
            losses.append(nats(model, text)[1:])
        columns = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        columns["position_ids"] = (mask.cumsum(1) - 1).clamp(
            min=0
        )  # absolute ones do not know of padding by themselves
        rows = evaluate(model, columns, "gaussian:0", 1, task="tokens").rows.set_index("metric")["value"]
        assert rows["loss"] == pytest.approx(float(torch.cat(losses).mean()), abs=1e-10)


class TestFolders:
    def test_the_command_line_is_python(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text(TEXT)
        data = f"text:{tmp_path / 'text.txt'},tokenizer=bytes,length=32"
        words = ["--noise", "gaussian:0.1", "pcm", "--times", "1h", "--compensation", "none", "global"]
        further = ["--converters", "none", "io:dac=6,adc=6", "--draws", "2", "--out", str(tmp_path / "rows.parquet")]
        main(["evaluate", str(folder), f"text=transformers:{folder}", "--data", data, *words, *further])
        rows = read_rows(tmp_path / "rows.parquet")
        assert set(rows["method"]) == {folder.name, "text"}
        assert (rows["metric"] == "perplexity").sum() == 2 * 2 * 2 * 2 * 2
        one = rows.query("metric == 'loss' and noise == 'gaussian:0.1' and compensation == 'none'")
        one = one[(one["method"] == "text") & (one["converters"] == "io:dac=6,adc=6")].set_index("draw")["value"]
        model, batch = MODELS[folder.name](), load(data).test.whole
        for draw in range(2):
            with converted(model, "io:dac=6,adc=6", draw=draw), perturbed(model, "gaussian:0.1", draw=draw):
                logits = model(batch.inputs).logits.detach()[:, :-1]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten())
            assert one[draw] == pytest.approx(float(loss), abs=1e-10)
        losses = rows[(rows["metric"] == "loss") & (rows["noise"] == "pcm")].groupby(["compensation", "converters"])[
            "value"
        ]
        assert losses.mean().nunique() == 4

    def test_several_files_precision_and_ties(self, tmp_path: Path) -> None:
        model = llama(tie_word_embeddings=True).bfloat16()
        model.save_pretrained(tmp_path / "net", max_shard_size="4KB")
        assert not (tmp_path / "net" / "model.safetensors").exists()
        found = find_checkpoints([str(tmp_path)])
        assert [one.about for one in found] == [{"label": "net", "task": "tokens"}]
        network = found[0].build()
        assert network.lm_head.weight is network.model.embed_tokens.weight
        assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
        assert all(torch.equal(value, found[0].weights[name]) for name, value in model.state_dict().items())

    def test_classes(self, tmp_path: Path) -> None:
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
        )
        BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
        data = torch.randint(20, (6, 5)), torch.tensor([0, 1, 2, 0, 1, 2])
        assert set(evaluate(tmp_path / "bert", data, draws=1).rows["metric"]) == {"accuracy", "loss"}
        other = build(f"transformers:{tmp_path / 'bert'}", 1, 5)
        assert other.classifier.weight.shape[0] == 5
        same = build(f"transformers:{tmp_path / 'bert'}", 1, 3)
        stored = read_checkpoint(tmp_path / "bert").build().state_dict()
        assert torch.equal(same.classifier.weight, stored["classifier.weight"])
        assert torch.equal(other.bert.pooler.dense.weight, stored["bert.pooler.dense.weight"])

    def test_images_are_normalised_as_the_folder_says(self, tmp_path: Path) -> None:
        from transformers import ViTConfig, ViTForImageClassification

        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=3, num_labels=3)
        model = ViTForImageClassification(config).eval()
        model.save_pretrained(tmp_path)
        settings = {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        images = torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8)
        labels = torch.arange(9) % 3
        rows = evaluate(tmp_path, Dataset(images, labels), "gaussian:0", 1).rows
        mean, std = (torch.tensor(settings[f"image_{name}"]).view(3, 1, 1) for name in ("mean", "std"))
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model((images / 255 - mean) / std).logits, labels)
        assert rows.set_index("metric")["value"]["loss"] == pytest.approx(float(loss), rel=1e-5)
        assert rows["inputs"].iloc[0] == "(x - [.4, .5, .6]) / [.2, .3, .4]"

    def test_training_from_a_folder(self, tmp_path: Path) -> None:
        llama().float().save_pretrained(tmp_path / "net")
        model = f"transformers:{tmp_path / 'net'}"
        words = ["--task", "tokens", "--epochs", "1", "--lr", "1", "--select-draws", "1", "--label-smoothing", "0"]
        main(["train", "--model", model, "--data", "sums:tokens", *words, "--out", str(tmp_path / "runs")])
        (run,) = find_checkpoints([str(tmp_path / "runs")])
        assert run.about["model"] == model
        found = evaluate(run, draws=1).rows.set_index("metric")["value"]
        start = evaluate(tmp_path / "net", "sums:tokens", draws=1).rows.set_index("metric")["value"]
        assert found["perplexity"] < 0.8 * start["perplexity"]

    @pytest.mark.parametrize(
        ("config", "fragment"),
        [
            ({"architectures": ["os.system"]}, "got 'os.system'; code of a folder is not run"),
            ({"architectures": []}, "expected a class of transformers"),
            ({"architectures": ["LlamaForSequenceClassification"]}, "got none for score.weight"),
            ({"attn_implementation": "someone/kernels"}, "expected no code from elsewhere"),
            (
                {"model_type": "new", "auto_map": {"AutoConfig": "code.Config"}},
                "expected a folder that save_pretrained",
            ),
        ],
    )
    def test_refusals(self, config: dict[str, Any], fragment: str, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        (tmp_path / "code.py").write_text("raise SystemError")
        with pytest.raises(UserError) as caught:
            read_checkpoint(tmp_path).build()
        assert fragment in str(caught.value)

    @pytest.mark.parametrize("change", [{"n_layer": 100_000}, {"n_embd": 20_000}, {"n_positions": 2**28}])
    def test_configurations_that_ask_for_more_than_is_there(self, change: dict[str, int], tmp_path: Path) -> None:
        gpt2().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match=r"expected a network of the 8,\d\d\d weights that are there, got "):
            read_checkpoint(tmp_path).build()
        assert time.process_time() - started < 10
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000

    def test_no_download_and_no_pickle(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="expected a folder that save_pretrained wrote"):
            read_checkpoint("transformers:gpt2")
        model = llama()
        model.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(UserError, match="expected a folder that save_pretrained wrote"):
            read_checkpoint(f"transformers:{tmp_path}").build()

    def test_it_has_a_text(self) -> None:
        spec = ModelSpec.parse("transformers:a/b,adapter=c,weights=false")
        assert spec == Transformers("a/b", "c", weights=False)
        assert str(spec) == "transformers:a/b,adapter=c,weights=false"


class TestAdapters:
    def adapted(self, seed: int = 0) -> Any:
        from peft import LoraConfig, get_peft_model

        with seeded(Stream(seed, "lora")):
            model = get_peft_model(llama().float(), LoraConfig(r=2, target_modules="all-linear"))
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter, std=0.3)
        return model

    def test_a_saved_adapter_is_evaluated_on_its_base(self, tmp_path: Path) -> None:
        adapted = self.adapted()
        copy.deepcopy(adapted).unload().save_pretrained(tmp_path / "base")
        adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
        adapted.save_pretrained(tmp_path / "adapter")
        ids = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(0))
        digital = Where(exclude=["*lora_*"])
        texts = [tmp_path / "adapter", f"transformers:{tmp_path / 'base'},adapter={tmp_path / 'adapter'}"]
        values = []
        for source in [*texts, adapted]:
            found = evaluate(source, {"input_ids": ids}, "gaussian:0.2", 2, task="tokens", where=digital)
            values.append(found.rows["value"].tolist())
        assert values[0] == values[1] == pytest.approx(values[2], rel=1e-5)
        for weights in ("true", "false"):
            with pytest.raises(UserError, match=r"expected adapter_config.json in some/where, got none"):
                build(f"transformers:{tmp_path / 'base'},adapter=some/where,weights={weights}", 1, 1)
        assert values[0] != evaluate(tmp_path / "base", ids, "gaussian:0.2", 2).rows["value"].tolist()

    def test_an_adapter_that_asks_for_more_than_is_there(self, tmp_path: Path) -> None:
        peft = pytest.importorskip("peft")
        gpt2().save_pretrained(tmp_path / "base")
        base = Transformers(str(tmp_path / "base")).load()
        config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
        peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
        file = tmp_path / "adapter" / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 10**8}))
        with pytest.raises(UserError, match="expected a network of the 128 weights that are there, got "):
            Transformers(str(tmp_path / "base"), adapter=str(tmp_path / "adapter")).load()

    def test_adapters_learn_on_a_noisy_base(self) -> None:
        """Every step finds the frozen base on another chip; it is a loop of one's own, weight by weight."""
        batch = next(iter(load("sums:tokens").train.batches(8, "cpu")))
        noise: dict[str, Any] = {"seed": 9, "exclude": ["*lora_*"]}
        ends = []
        for own in (True, False):
            model = self.adapted()
            trained = [p for p in model.parameters() if p.requires_grad]
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            optimizer = torch.optim.SGD(trained, 0.5)
            engine = Engine(model, optimizer, task="tokens")
            for step in range(3):
                with perturbed(model, "gaussian:0.1", draw=step, **noise):
                    if own:
                        optimizer.zero_grad()
                        model(batch.inputs, labels=batch.labels).loss.backward()
                        optimizer.step()
                    else:
                        Method.parse("plain").step(engine, batch, Progress(step, 3))
            moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
            assert moved == {name for name in before if "lora_" in name}
            ends.append(torch.cat([p.detach().flatten() for p in trained]))
        torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-6)


def test_converters_of_conv1d_are_those_of_a_linear() -> None:
    from transformers.pytorch_utils import Conv1D

    model, twin = gpt2(), gpt2()
    for path, module in [*twin.named_modules()]:
        if isinstance(module, Conv1D):
            linear = nn.Linear(*module.weight.shape).double()
            linear.weight.data, linear.bias.data = module.weight.data.T.contiguous(), module.bias.data
            owner, _, name = path.rpartition(".")
            setattr(twin.get_submodule(owner), name, linear)
    ids = torch.arange(20)[None]
    outputs = []
    for network in (model, twin):
        with torch.no_grad(), converted(network, "io:dac=5,adc=5,noise=0.05") as converting:
            outputs.append(network(ids).logits)
        assert not converting.uncovered
    torch.testing.assert_close(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], model(ids).logits, atol=1e-2)


def test_the_page_shows_what_was_measured() -> None:
    root = Path(__file__).parent.parent / "docs"
    summary = summarize(read_rows(root / "results" / "language_model.parquet"))
    page = (root / "language_model.md").read_text()
    lines = summary[(summary["metric"] == "perplexity") & (summary["noise"] != "gaussian:0.05")]
    assert len(lines) == 20
    assert all(f"{line.mean:.2f} [{line.low:.2f}, {line.high:.2f}]" in page for line in lines.itertuples())
