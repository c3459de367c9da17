"""`wyrmling init --from` a configuration of another trainer: what it says is kept, what has no equivalent is listed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from wyrmling import config
from wyrmling.core.errors import BadInput, BadSetting, UsageError
from wyrmling.data import origins, read
from wyrmling.flow.init import init

LLAMA_FACTORY = """
### model
model_name_or_path: Qwen/Qwen3-0.6B
quantization_bit: 4

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: tickets, chats, alpaca_en_demo
dataset_dir: sets
template: qwen3
cutoff_len: 2048
max_samples: 1000

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
deepspeed: ds.json

### eval
val_size: 0.1
"""

AXOLOTL = """
base_model: NousResearch/Llama-3.2-1B
load_in_8bit: false
adapter: lora
lora_model_dir:
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
peft_use_rslora: true
datasets:
  - path: turns.jsonl
    type: chat_template
    field_messages: conversation
  - path: teknium/GPT4-LLM-Cleaned
    type: alpaca
val_set_size: 0.05
sequence_len: 4096
sample_packing: true
gradient_accumulation_steps: 4
micro_batch_size: 2
max_steps: 200
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 2e-4
bf16: auto
warmup_steps: 10
loss_watchdog_threshold: 5.0
special_tokens:
  pad_token: "<|end_of_text|>"
"""

TRL = """
model_name_or_path: Qwen/Qwen2.5-0.5B
model_revision: main
dataset_name: stanfordnlp/imdb
learning_rate: 0.0001
lr_scheduler_type: cosine
use_peft: true
lora_r: 16
lora_alpha: 32
lora_target_modules: [q_proj, v_proj]
max_length: 512
seed: 7
report_to: none
teacher_model: big
"""


def imported(tmp_path: Path, text: str) -> tuple[config.Project, tuple[str, ...]]:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    made = init(tmp_path / "project", source=file)
    return config.load(made.folder), made.notes


def test_llama_factory(tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / "tickets.json").write_text(json.dumps([{"q": "where is it", "a": "on its way", "more": "x"}]))
    turns = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]
    (sets / "chats.json").write_text(json.dumps([{"talk": turns}]))
    about = {
        "tickets": {"file_name": "tickets.json", "columns": {"prompt": "q", "response": "a", "history": "more"}},
        "chats": {"file_name": "chats.json", "formatting": "sharegpt", "columns": {"messages": "talk"}},
        "alpaca_en_demo": {"hf_hub_url": "llamafactory/alpaca_en"},
    }
    (sets / "dataset_info.json").write_text(json.dumps(about))
    project, notes = imported(tmp_path, LLAMA_FACTORY)
    settings, (step,) = project.settings, project.steps
    assert (settings.objective.task, settings.model.base, settings.model.context) == ("chat", "Qwen/Qwen3-0.6B", 2048)
    assert (step.objective, step.method, step.lora.rank, step.lora.targets) == ("sft", "qlora", 8, ("all-linear",))
    assert step.lora.rslora is False, "as peft computes it"
    assert (step.lr, step.epochs, step.schedule, step.warmup) == (1e-4, 3.0, "cosine", 0.1)
    assert (settings.data.split.val, settings.machine.dtype) == (0.1, "bfloat16")
    rows = {
        name: list(read.read_rows(origins.find_origin(name, settings.data.sources[name], project.root)))
        for name in ("tickets", "chats")
    }
    assert [[message.content for message in row[0].messages] for row in rows.values()] == [
        ["where is it", "on its way"],
        ["hello", "hi"],
    ]
    said = "\n".join(notes)
    assert "LLaMA-Factory" in said and "'llamafactory/alpaca_en' is not here" in said
    assert "a batch of 8 rows" in said and "template 'qwen3'" in said and "column 'more'" in said
    assert "no equivalent: max_samples = 1000" in said and 'no equivalent: deepspeed = "ds.json"' in said
    assert "do_train" not in said


def test_axolotl(tmp_path: Path) -> None:
    (tmp_path / "turns.jsonl").write_text(json.dumps({"conversation": [{"role": "user", "content": "hi"}]}) + "\n")
    project, notes = imported(tmp_path, AXOLOTL)
    settings, (step,) = project.settings, project.steps
    assert (step.method, step.lora.rank, step.lora.alpha, step.lora.dropout) == ("lora", 32, 16.0, 0.05)
    assert (step.lora.rslora, step.optimizer, step.steps, step.lr) == (True, "adamw", 200, 2e-4)
    assert step.warmup == 10 / 200
    assert settings.data.sources["turns"].messages == "conversation"
    assert settings.data.sources["GPT4-LLM-Cleaned"].path == "data/GPT4-LLM-Cleaned/*"
    said = "\n".join(notes)
    assert "no equivalent: loss_watchdog_threshold = 5.0" in said and "no equivalent: special_tokens" in said
    assert "load_in_8bit" not in said and "lora_model_dir" not in said, "off and empty keys ask for nothing"


def test_trl(tmp_path: Path) -> None:
    project, notes = imported(tmp_path, TRL)
    (step,) = project.steps
    assert (step.method, step.lora.targets, step.lora.alpha) == ("lora", ("q_proj", "v_proj"), 32.0)
    assert (project.settings.seed, project.settings.model.context) == (7, 512)
    assert any("'stanfordnlp/imdb' is not here" in note for note in notes)
    assert 'no equivalent: teacher_model = "big"' in notes


def test_full_and_frozen_training(tmp_path: Path) -> None:
    project, _ = imported(
        tmp_path, "base_model: a/b\ndatasets: [{path: c/d, type: completion, field: body}]\nlora_r: 8\n"
    )
    (step,) = project.steps
    assert (step.objective, step.method, project.settings.objective.task) == ("causal", "full", "complete")
    assert project.settings.data.sources["d"].text == "body"
    frozen = "model_name_or_path: a/b\nstage: pt\nfinetuning_type: freeze\nfreeze_trainable_layers: 3\n"
    (tmp_path / "other").mkdir()
    project, notes = imported(tmp_path / "other", frozen)
    assert (project.steps[0].method, project.steps[0].freeze.layers) == ("freeze", 3)
    assert any("it names no data" in note for note in notes)


def test_a_file_of_the_openai_form_starts_a_chat_project(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    line = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    file.write_text(json.dumps(line) + "\n")
    made = init(tmp_path / "project", source=file)
    assert config.load(made.folder).settings.objective.task == "chat"


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("a: [1", BadInput, "no valid YAML"),
        ("- a\n- b\n", BadInput, "holds no settings"),
        ("lr: 1\n", UsageError, "no configuration of LLaMA-Factory, Axolotl or TRL"),
        ("base_model: a/b\nadapter: lora\nlora_r: 0\n", BadSetting, "rank"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        imported(tmp_path, text)


def test_without_a_yaml_reader_the_install_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(UsageError, match=r"pip install 'wyrmling\[yaml\]'"):
        imported(tmp_path, TRL)
