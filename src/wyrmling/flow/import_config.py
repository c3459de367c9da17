"""A project from the configuration of another trainer: LLaMA-Factory, Axolotl or TRL.

What a key means is looked up in a table per trainer; what has no equivalent here is listed, never dropped in silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from wyrmling import config
from wyrmling.core import toml
from wyrmling.core.errors import BadInput, UsageError

SUFFIXES = (".yaml", ".yml")
Raw = dict[str, Any]


@dataclass
class Plan:
    """The project as it takes shape, and what a reader should know.

    read    keys that were understood; the others have no equivalent
    """

    settings: Raw = field(default_factory=dict)
    step: Raw = field(default_factory=dict)
    sources: dict[str, Raw] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    def lora(self, key: str, value: Any) -> None:
        self.step.setdefault("lora", {})[key] = value


Set = Callable[[Plan, Any], None]


def _step(key: str, kind: Callable[[Any], Any] = float) -> Set:
    return lambda plan, value: plan.step.__setitem__(key, kind(value))


def _lora(key: str, kind: Callable[[Any], Any]) -> Set:
    return lambda plan, value: plan.lora(key, kind(value))


def _ignored(plan: Plan, value: Any) -> None:
    """A key that changes nothing of the result here: where files go, how often is logged, how memory is saved."""


def _targets(plan: Plan, value: Any) -> None:
    names = value if isinstance(value, list) else [one.strip() for one in str(value).split(",")]
    plan.lora("targets", ["all-linear"] if names in (["all"], ["all-linear"]) else names)


def _schedule(plan: Plan, value: Any) -> None:
    known = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant",
             "warmup_stable_decay": "wsd", "cosine_with_min_lr": "cosine"}  # fmt: skip
    if value in known:
        plan.step["schedule"] = known[value]
    else:
        plan.notes.append(f"lr_scheduler_type {value!r} has no equivalent; the default schedule is used")


def _optimizer(plan: Plan, value: Any) -> None:
    name = str(value).lower()
    if "muon" in name:
        plan.step["optimizer"] = "muon"
    elif name.startswith(("adam", "paged_adam")):
        plan.step["optimizer"] = "adamw"
    else:
        plan.notes.append(f"optimizer {value!r} has no equivalent; the derived one is used")


def _steps(plan: Plan, value: Any) -> None:
    if int(value) > 0:
        plan.step["steps"] = int(value)


def _evaluate_every(plan: Plan, value: Any) -> None:
    if float(value) >= 1:
        plan.step["evaluate_every"] = int(value)


def _context(plan: Plan, value: Any) -> None:
    plan.settings.setdefault("model", {})["context"] = int(value)


def _validation(plan: Plan, value: Any) -> None:
    if 0 < float(value) < 1:
        plan.settings.setdefault("data", {})["split"] = {"val": float(value)}
    elif value:
        plan.notes.append(f"a validation set of {value} rows: set data.split.val as a share instead")


def _warmup(plan: Plan, value: Any) -> None:
    """Optimizer steps; below 1 a share of them, as transformers has it now."""
    most = plan.step.get("steps")
    if float(value) < 1:
        plan.step["warmup"] = float(value)
    elif most:
        plan.step["warmup"] = min(1.0, float(value) / most)
    else:
        plan.notes.append(f"no equivalent: warmup_steps = {value}; warmup is a share of the steps here")


def _seed(plan: Plan, value: Any) -> None:
    plan.settings["seed"] = int(value)


def _bfloat(plan: Plan, value: Any) -> None:
    if value is True:
        plan.settings.setdefault("machine", {})["dtype"] = "bfloat16"


# Keys that the trainers share: they come from transformers and peft.
SHARED: dict[str, Set] = {
    "learning_rate": _step("lr"),
    "num_train_epochs": _step("epochs"),
    "max_steps": _steps,
    "lr_scheduler_type": _schedule,
    "warmup_ratio": _step("warmup"),
    "warmup_steps": _warmup,
    "weight_decay": _step("weight_decay"),
    "max_grad_norm": _step("clip"),
    "label_smoothing_factor": _step("label_smoothing"),
    "optim": _optimizer,
    "eval_steps": _evaluate_every,
    "save_total_limit": _step("keep_checkpoints", int),
    "lora_rank": _lora("rank", int),
    "lora_r": _lora("rank", int),
    "lora_alpha": _lora("alpha", float),
    "lora_dropout": _lora("dropout", float),
    "lora_target": _targets,
    "lora_target_modules": _targets,
    "use_rslora": _lora("rslora", bool),
    "use_dora": _lora("dora", bool),
    "peft_use_rslora": _lora("rslora", bool),
    "peft_use_dora": _lora("dora", bool),
    "seed": _seed,
    "bf16": _bfloat,
    "val_size": _validation,
    "val_set_size": _validation,
    "cutoff_len": _context,
    "sequence_len": _context,
    "max_length": _context,
    "max_seq_length": _context,
    # axolotl's names
    "num_epochs": _step("epochs"),
    "optimizer": _optimizer,
    "lr_scheduler": _schedule,
} | dict.fromkeys(
    (
        "output_dir", "overwrite_output_dir", "overwrite_cache", "logging_steps", "logging_strategy", "save_steps",
        "save_strategy", "saves_per_epoch", "eval_strategy", "evals_per_epoch", "report_to", "run_name", "do_train",
        "do_eval", "plot_loss", "preprocessing_num_workers", "dataloader_num_workers", "dataset_prepared_path",
        "ddp_timeout", "gradient_checkpointing", "gradient_checkpointing_kwargs", "flash_attn", "flash_attention",
        "attn_implementation", "sample_packing", "packing", "neat_packing", "pad_to_sequence_len", "padding_free",
        "eval_packing", "group_by_length", "tf32", "fp16", "trust_remote_code", "wandb_project", "wandb_entity",
        "wandb_name", "wandb_watch", "wandb_log_model", "push_to_hub", "hub_model_id", "strict", "train_on_inputs",
        "resume_from_checkpoint", "model_type", "tokenizer_type", "dtype", "torch_dtype", "dataset_num_proc",
        "save_only_model", "evaluation_strategy", "eval_sample_packing", "per_device_eval_batch_size", "use_peft",
        "eval_batch_size", "debug", "xformers_attention",
    ),
    _ignored,
)  # fmt: skip
# They mean rows; a step here is counted in tokens.
BATCH = ("per_device_train_batch_size", "micro_batch_size", "gradient_accumulation_steps")


def load(file: Path) -> tuple[Raw, list[str]]:
    """The settings of a project like the configuration in `file`, and notes, among them what has no equivalent.

    Raises   BadInput for a file that is no YAML; UsageError for one of no known trainer
    """
    raw = _yaml(file)
    if "finetuning_type" in raw or "stage" in raw:
        trainer, plan = "LLaMA-Factory", _llama_factory(raw, file)
    elif "base_model" in raw:
        trainer, plan = "Axolotl", _axolotl(raw, file)
    elif "model_name_or_path" in raw:
        trainer, plan = "TRL", _trl(raw, file)
    else:
        raise UsageError(
            f"{file} is no configuration of LLaMA-Factory, Axolotl or TRL",
            fix="it needs model_name_or_path, base_model, or finetuning_type; for data give the data file itself",
        )
    # In the order of the table: the share of a warmup needs the number of steps.
    for key, take in SHARED.items():
        if raw.get(key) is not None and key not in plan.read:
            take(plan, raw[key])
            plan.read.add(key)
    return _finished(plan, raw, trainer, file)


def _finished(plan: Plan, raw: Raw, trainer: str, file: Path) -> tuple[Raw, list[str]]:
    if any(key in raw for key in BATCH):
        rows = int(raw.get(BATCH[0]) or raw.get(BATCH[1]) or 1) * int(raw.get(BATCH[2]) or 1)
        plan.notes.append(f"a batch of {rows} rows per device: here batches are counted in tokens, see batch_tokens")
    if plan.step.get("method") not in ("lora", "qlora"):
        plan.step.pop("lora", None)
    known = plan.read | set(BATCH)
    # What is off or left empty asks for nothing.
    unknown = sorted(key for key, value in raw.items() if key not in known and value not in (None, False, "", []))
    if not plan.sources:
        plan.sources["data"] = {"path": "data/*"}
        plan.notes.append("it names no data: put it into data/, or edit data.sources")
    data = plan.settings.setdefault("data", {})
    data["sources"] = plan.sources
    settings = {**plan.settings, "train": [{"name": "tune", **plan.step}]}
    without = [f"no equivalent: {key} = {json.dumps(raw[key], default=str)}" for key in unknown]
    return settings, [f"read as a configuration of {trainer}: {file.name}", *plan.notes, *without]


def _yaml(file: Path) -> Raw:
    try:
        import yaml
    except ImportError as error:
        raise UsageError(f"reading {file.name} needs a YAML reader", fix="pip install 'wyrmling[yaml]'") from error
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fix = "mend the line that the message names"
        raise BadInput(f"this is no valid YAML: {error}", where=file, fix=fix) from error
    if not isinstance(raw, dict):
        raise BadInput("this YAML holds no settings", where=file, fix="give a configuration file")
    return {str(key): value for key, value in raw.items()}


def _method(plan: Plan, adapter: str | None, bits: Any) -> None:
    quantized = adapter == "qlora" or bits in (4, "4", True)
    plan.step["method"] = "full" if adapter in (None, "full") else "qlora" if quantized else "lora"


def _objective(plan: Plan, kind: str) -> None:
    """The task and the training objective; what no objective here learns becomes a note."""
    known = {"pt": "causal", "sft": "sft"} | dict.fromkeys(("dpo", "ipo", "simpo", "orpo", "kto", "rm"), "preference")
    wanted = known.get(kind)
    if wanted not in get_args(config.TrainObjective):
        plan.notes.append(f"no equivalent: training of the kind {kind!r}; the project learns the answers (sft) instead")
        wanted = "sft"
    plan.step["objective"] = wanted
    plan.settings["objective"] = {"task": "complete" if kind == "pt" else "chat"}


def _base(plan: Plan, name: Any, file: Path) -> None:
    folder = _near(file, str(name))
    plan.settings.setdefault("model", {})["base"] = str(folder) if folder else str(name)


def _near(file: Path, name: str, *folders: Path) -> Path | None:
    """A path of the configuration: as it stands, or from its folder or those above, where trainers are started."""
    for folder in (Path(), *folders, file.parent, *file.resolve().parents[1:4]):
        if (found := folder / Path(name).expanduser()).exists():
            return found.resolve()
    return None


def _dataset(plan: Plan, name: str, where: str | None, file: Path, columns: Raw, *folders: Path) -> None:
    """One source: a file that is here, or the place to put one from a hub."""
    key = "".join(c if c.isascii() and c.isalnum() else "-" for c in name).strip("-") or "data"
    found = None if where is None else _near(file, where, *folders)
    if found is None:
        plan.notes.append(f"the data set {where or name!r} is not here: download it and put its files into data/{key}/")
    plan.sources[key] = {"path": str(found) if found else f"data/{key}/*", **columns}


# ---- LLaMA-Factory ----


def _llama_factory(raw: Raw, file: Path) -> Plan:
    plan = Plan(read={"stage", "finetuning_type", "model_name_or_path", "dataset", "dataset_dir", "quantization_bit",
                      "freeze_trainable_layers", "template"})  # fmt: skip
    _base(plan, raw.get("model_name_or_path"), file)
    _objective(plan, str(raw.get("stage", "sft")))
    kind = raw.get("finetuning_type", "lora")
    _method(plan, kind, raw.get("quantization_bit"))
    if kind == "freeze":
        plan.step |= {"method": "freeze", "freeze": {"layers": abs(int(raw.get("freeze_trainable_layers", 2)))}}
    if "template" in raw:
        plan.notes.append(f"template {raw['template']!r}: the base model's own chat template is used")
    folder = _near(file, str(raw.get("dataset_dir", "data")))
    about = folder / "dataset_info.json" if folder else None
    known = json.loads(about.read_text(encoding="utf-8")) if about and about.is_file() else {}
    names = raw.get("dataset") or []
    for name in names if isinstance(names, list) else [one.strip() for one in str(names).split(",")]:
        entry = known.get(name, {})
        where = entry.get("file_name") or entry.get("hf_hub_url")
        _dataset(plan, name, where, file, _columns_of(plan, name, entry), *([folder] if folder else []))
    return plan


def _columns_of(plan: Plan, name: str, entry: Mapping[str, Any]) -> Raw:
    """The columns that a data set's entry in dataset_info.json names. Usual names are found without."""
    columns = entry.get("columns", {})
    if entry.get("ranking"):
        plan.notes.append(f"{name}: pairs of answers; name their columns in data.sources.{name} if they are not found")
        return {}
    if entry.get("formatting") == "sharegpt":
        return {"messages": columns.get("messages", "conversations")}
    if {"prompt", "response"} <= columns.keys() and columns["prompt"] != "instruction":
        for extra in sorted(columns.keys() - {"prompt", "response"}):
            plan.notes.append(f"no equivalent: {name}, column {columns[extra]!r} as {extra}")
        return {"prompt": columns["prompt"], "response": columns["response"]}
    return {}


# ---- Axolotl ----


def _axolotl(raw: Raw, file: Path) -> Plan:
    plan = Plan(read={"base_model", "adapter", "load_in_4bit", "load_in_8bit", "datasets", "test_datasets", "rl",
                      "lora_target_linear", "chat_template", "special_tokens"})  # fmt: skip
    _base(plan, raw["base_model"], file)
    datasets = raw.get("datasets") or []
    completion = bool(datasets) and all(one.get("type") == "completion" for one in datasets)
    _objective(plan, str(raw.get("rl") or ("pt" if completion else "sft")))
    _method(plan, raw.get("adapter"), raw.get("load_in_4bit"))
    if raw.get("lora_target_linear"):
        plan.lora("targets", ["all-linear"])
    for key in ("chat_template", "special_tokens"):
        if raw.get(key):
            plan.notes.append(f"no equivalent: {key} = {json.dumps(raw[key], default=str)}")
    for split, listed in ((None, datasets), ("test", raw.get("test_datasets") or [])):
        for one in listed:
            columns: Raw = {} if split is None else {"split": split}
            if messages := one.get("field_messages"):
                columns["messages"] = messages
            if one.get("type") == "completion":
                columns["text"] = one.get("field", "text")
            where = one.get("data_files") or one["path"]
            name = Path(str(one["path"])).stem + ("" if split is None else "-test")
            _dataset(plan, name, str(where[0] if isinstance(where, list) else where), file, columns)
    return plan


# ---- TRL ----


def _trl(raw: Raw, file: Path) -> Plan:
    plan = Plan(read={"model_name_or_path", "model_revision", "use_peft", "load_in_4bit", "load_in_8bit", "datasets",
                      "dataset_name", "dataset_train_split", "dataset_test_split", "dataset_text_field"})  # fmt: skip
    _base(plan, raw["model_name_or_path"], file)
    if raw.get("model_revision") not in (None, "main"):
        plan.settings["model"]["revision"] = str(raw["model_revision"])
    # The same file serves `trl sft` and `trl dpo`; only the losses differ.
    _objective(plan, "dpo" if "beta" in raw or str(raw.get("loss_type", "nll")) not in ("nll", "dft") else "sft")
    _method(plan, "lora" if raw.get("use_peft") else None, raw.get("load_in_4bit"))
    listed = [one["path"] for one in raw.get("datasets") or []]
    named = [raw["dataset_name"]] if raw.get("dataset_name") else []
    for name in listed or named:
        text = raw.get("dataset_text_field")
        _dataset(plan, Path(str(name)).stem, str(name), file, {"text": text} if text and text != "text" else {})
    return plan


def text(name: str, settings: Raw) -> str:
    """The project file. Raises BadSetting when the configuration asks for what this wyrmling refuses."""
    whole = {"name": name, **settings}
    config.parse(whole, where="--from")
    return "\n".join(toml.lines(whole)) + "\n"
