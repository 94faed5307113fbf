"""Networks on chips in the lm-evaluation-harness, against loops of one's own; nothing is downloaded."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from noiserobust import Stream, UserError, evaluate, perturbed
from noiserobust.cli import main
from noiserobust.evaluation import Where, paired
from noiserobust.rng import seeded
from noiserobust.storage.rows import read_rows
from noiserobust.tasks import Harness, Task

pytestmark = pytest.mark.filterwarnings("ignore")  # other libraries' own

DOCS = [
    {
        "question": f"{a} plus {b} is",
        "choices": [" two.", " ten.", " six.", " one."],
        "answer": a * b % 4,
    }
    for a in range(4)
    for b in range(3)
]


def byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(signs)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=signs[-1], pad_token=signs[-1])


def network() -> nn.Module:
    """A GPT-2 whose output layer is tied to the embedding, with weights large enough to have opinions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with seeded(Stream(0, "net")):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_embd=16, n_layer=1, n_head=2, n_positions=64))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.4)
    return model.eval()


def question(**settings: Any) -> dict[str, Any]:
    from datasets import Dataset

    return {
        "task": "tiny",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(DOCS)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "doc_to_choice": "choices",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **settings,
    }


@torch.no_grad()
def share_right(model: nn.Module, docs: list[dict[str, Any]]) -> float:
    """How often the most likely choice is the answer: the sum of its tokens' log probabilities, one pass for each."""
    tokenizer, right = byte_tokenizer(), 0
    for doc in docs:
        before = tokenizer(doc["question"])["input_ids"]
        scores = []
        for choice in doc["choices"]:
            after = tokenizer(choice)["input_ids"]
            logits = model(torch.tensor([before + after])).logits[0].log_softmax(1)
            scores.append(sum(float(logits[len(before) + at - 1, token]) for at, token in enumerate(after)))
        right += int(np.argmax(scores)) == doc["answer"]
    return right / len(docs)


def test_each_chip_is_a_language_model_in_memory() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002 - the one that the harness seeds
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    task = Harness.of(question(), byte_tokenizer())
    result = evaluate(model, task=task, noises=["gaussian:0.3", "pcm"], draws=4)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.lm_head.weight is model.transformer.wte.weight
    assert list(result.rows["metric"].unique()) == ["acc/tiny"]
    rows = result.rows.set_index(["noise", "draw"])["value"]
    for (noise, draw), value in rows.items():
        with perturbed(model, noise, draw=draw):
            assert value == share_right(model, DOCS)
    assert rows.nunique() > 2
    assert "acc/tiny: mean ± std over noise draws" in result.table()


TEXTS = ["one plus one is two.", "seven plus five is twelve."]


def rolling() -> dict[str, Any]:
    from datasets import Dataset

    return {
        "task": "texts",
        "custom_dataset": lambda **_: {"test": Dataset.from_list([{"text": text} for text in TEXTS])},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}, {"metric": "word_perplexity"}],
    }


@torch.no_grad()
def byte_perplexity(model: nn.Module) -> float:
    nats = 0.0
    for text in TEXTS:
        ids = torch.tensor([[255, *byte_tokenizer()(text)["input_ids"]]])  # the harness begins with the end token
        nats += float(nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum"))
    return float(np.exp(nats / sum(map(len, TEXTS))))


def test_noise_in_a_tied_output_layer_counts() -> None:
    """The harness ties weights anew when it is given a network."""
    model, task = network(), Harness.of(rolling(), byte_tokenizer())
    where = Where(include=["lm_head.weight"], exclude=["transformer.*"])
    rows = evaluate(model, task=task, noises="gaussian:0.1", draws=2, where=where).rows
    rows = rows[rows["metric"] == "byte_perplexity/texts"].set_index("draw")["value"]
    for draw, value in rows.items():
        with perturbed(model, "gaussian:0.1", draw=draw, include=where.include, exclude=where.exclude):
            assert value == pytest.approx(byte_perplexity(model), rel=1e-5)
        assert value != pytest.approx(byte_perplexity(model), rel=1e-3)


def test_perplexities_are_less_the_better() -> None:
    model = network()
    task = Harness.of([rolling(), question()], byte_tokenizer(), metric="byte_perplexity/texts")
    result = evaluate({"a": model, "b": model}, task=task, noises="gaussian:0.2", draws=2)
    found = result.rows.set_index(["method", "draw", "metric"])["value"]
    assert set(result.rows["metric"]) == {"byte_perplexity/texts", "word_perplexity/texts", "acc/tiny"}
    with perturbed(model, "gaussian:0.2", draw=1):
        assert found["a", 1, "byte_perplexity/texts"] == pytest.approx(byte_perplexity(model), rel=1e-5)
    assert (paired(result.rows, "a", "b")["mean"] == 0).all()
    assert result.rows["metric"].iloc[0] == "byte_perplexity/texts"


def test_the_command_line_finds_tokenizer_and_tasks_in_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network()
    model.save_pretrained(tmp_path / "net")
    byte_tokenizer().save_pretrained(tmp_path / "net")
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, DOCS)))
    settings = {key: value for key, value in question().items() if key != "custom_dataset"}
    data = {"data_files": {"test": str(tmp_path / "docs.jsonl")}, "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "tasks").mkdir()
    text = json.dumps(settings | {"dataset_path": "json", "dataset_kwargs": data})  # JSON is YAML
    (tmp_path / "tasks" / "tiny.yaml").write_text(text)
    out = tmp_path / "rows.parquet"
    task = f"lm-eval:tiny,limit=5,folder={tmp_path / 'tasks'}"
    command = ["evaluate", str(tmp_path / "net"), "--task", task, "--noise", "gaussian:0.3", "--draws", "2"]
    main([*command, "--out", str(out)])
    for row in read_rows(out).itertuples():
        with perturbed(model, row.noise, draw=row.draw):
            assert row.value == share_right(model, DOCS[:5])
    main(["report", str(out)])
    assert capsys.readouterr().out.count("acc/tiny: mean ± std over noise draws; 1 model x 2 draws") == 2


def test_rows_name_what_was_asked() -> None:
    tokenizer = byte_tokenizer()
    kinds = [question(), question(doc_to_target="{{3 - answer}}"), question(task="other")]
    digests = [Harness.of(kind, tokenizer).digest for kind in kinds] + [
        Harness.of(question(), tokenizer, limit=3).digest
    ]
    assert len(set(digests)) == 4
    assert Harness.of(question(), tokenizer).digest == digests[0]


def test_it_has_a_text() -> None:
    task = Task.parse("lm-eval:arc_easy+hellaswag,limit=20,shots=2")
    assert task == Harness("arc_easy+hellaswag", limit=20, shots=2)
    assert str(task) == "lm-eval:arc_easy+hellaswag,limit=20,shots=2"


@pytest.mark.parametrize(
    ("task", "fragment"),
    [
        (lambda folder: f"lm-eval:nothing,folder={folder}", "Spec 'nothing' is not a registered"),
        (lambda _: Harness.of(question(), byte_tokenizer(), metric="f1"), "expected a metric of acc/tiny, got 'f1'"),
        (lambda _: Harness.of(question()), "expected a tokenizer that save_pretrained wrote"),
    ],
)
def test_refusals(task: Any, fragment: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        evaluate(network(), task=task(tmp_path), draws=1)
    assert fragment in str(caught.value)
    with pytest.raises(UserError, match="expected a network of transformers"):
        evaluate(nn.Sequential(nn.Linear(3, 3)), task=Harness.of(question(), byte_tokenizer()), draws=1)
