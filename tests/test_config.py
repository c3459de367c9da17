"""Settings: what a wrong project file says, overrides, and the published schema."""

import json
from pathlib import Path

import pytest

from wyrmling import config
from wyrmling.core.errors import BadSetting, UsageError

SMALL = """
name = "desk"
[objective]
task = "classify"
[data.sources.tickets]
path = "tickets.csv"
"""


def write(folder: Path, text: str = SMALL) -> Path:
    (folder / config.PROJECT_FILE).write_text(text, encoding="utf-8")
    return folder


def test_the_shortest_project_is_a_name_a_task_and_a_source(tmp_path):
    project = config.load(write(tmp_path))
    assert [step.objective for step in project.steps] == ["masked", "classify"]
    assert project.database_url.startswith("sqlite:///")


@pytest.mark.parametrize(
    ("task", "steps"),
    [
        ("classify", ["classify"]),
        ("tag", ["tag"]),
        ("chat", ["sft"]),
        ("answer", ["sft"]),
        ("summarize", ["sft"]),
        ("complete", ["causal"]),
    ],
)
def test_a_ready_model_is_not_taught_to_read_again(tmp_path, task, steps):
    text = SMALL.replace('"classify"', f'"{task}"')
    scratch = config.load(write(tmp_path, text))
    assert scratch.steps[0].objective in ("masked", "causal")
    ready = config.load(write(tmp_path, text + '[model]\nbase = "models/ready"\n'))
    assert [step.objective for step in ready.steps] == steps
    changed = ready.with_settings([f"train.{ready.steps[0].name}.lr=0.01"])
    assert [step.lr for step in changed.steps] == [0.01]
    api = config.load(write(tmp_path, text + '[model]\nbase = "openai:gpt"\n'))
    assert api.steps == ready.steps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            SMALL + "[tokenizer]\nvocab_sise = 1000\n",
            r"tokenizer\.vocab_sise: unknown setting, did you mean tokenizer\.vocab_size",
        ),
        (SMALL + "[machin]\n", r"machin: unknown setting, did you mean machine\?"),
        (SMALL + 'lable = "team"\n', r"data\.sources\.tickets\.lable: unknown setting, did you mean .*\.label\?"),
        (
            SMALL + '[[train]]\nname="t"\nobjective="causal"\nlrr=1.0\n',
            r"train\.t\.lrr: unknown setting, did you mean train\.t\.lr\?",
        ),
        (SMALL + '[[train]]\nname="t"\nobjective="causal"\nlr="3e-4"\n', r'train\.t\.lr = "3e-4"'),
        (
            SMALL + '[[train]]\nname="t"\nobjective="causal"\nsources=["crm"]\n',
            r"names 'crm', but data\.sources has \['tickets'\]",
        ),
        (
            SMALL + '[[train]]\nname="t"\nobjective="causal"\n' * 1 + '[[train]]\nname="t"\nobjective="sft"\n',
            "two train steps",
        ),
        (SMALL.replace('"classify"', '"clasify"'), r'objective\.task = "clasify"'),
        (SMALL.replace('path = "tickets.csv"', 'url = "sqlite:///x.db"'), "url and query belong together"),
        ('name = "x"\n[objective]\ntask = "chat"\n', "data: required setting is missing"),
        ('name="x"\n[[data.sources]]\npath="a"\n', r"data\.sources: .* \[data\.sources\.NAME\], not"),
        (SMALL + '[train]\nobjective="causal"\n', r"train: .* \[\[train\]\], not"),
        (SMALL + "[tokenizer]\nvocab_size = true\n", r"tokenizer\.vocab_size = true"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(tmp_path, text, says):
    with pytest.raises(BadSetting, match=says) as raised:
        config.load(write(tmp_path, text))
    assert raised.value.exit_code == 1
    assert raised.value.fix


def test_broken_toml_names_the_line(tmp_path):
    with pytest.raises(BadSetting, match="line 3"):
        config.load(write(tmp_path, 'name = "x"\n\n[objective\n'))


def test_a_folder_without_a_project_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match="wyrmling init"):
        config.find_project(tmp_path)


def test_the_project_is_found_from_a_folder_inside_it(tmp_path):
    inner = write(tmp_path) / "data" / "deep"
    inner.mkdir(parents=True)
    assert config.find_project(inner) == tmp_path


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=7", lambda s: s.seed == 7),
        ("train.tune.lr=1e-4", lambda s: s.train[1].lr == 1e-4),
        ("train.pretrain.epochs=2", lambda s: s.train[0].epochs == 2),
        ("data.clean.pii=keep", lambda s: s.data.clean.pii == "keep"),
        ("data.sources.tickets.label=team", lambda s: s.data.sources["tickets"].label == "team"),
        ('objective.accept=["accuracy >= 0.5"]', lambda s: s.objective.accept == ("accuracy >= 0.5",)),
        ("objective.budget.hours=0.5", lambda s: s.objective.budget.hours == 0.5),
        ("machine.threads=1", lambda s: s.machine.threads == 1),
    ],
)
def test_set_overrides_one_setting(tmp_path, override, read):
    assert read(config.load(write(tmp_path), [override]).settings)


@pytest.mark.parametrize("override", ["seed", "seedd=3", "train.tunes.lr=1", "train.tune.lrr=1", "seed.x=1", "seed=-1"])
def test_a_bad_override_is_a_usage_error(tmp_path, override):
    with pytest.raises(UsageError) as raised:
        config.load(write(tmp_path), [override])
    assert raised.value.exit_code == 2


def test_an_override_leaves_the_other_steps_alone(tmp_path):
    plain = config.load(write(tmp_path))
    changed = config.load(tmp_path, ["train.tune.lr=0.5"])
    assert changed.steps[0] == plain.steps[0]
    assert changed.steps[1].model_copy(update={"lr": None}) == plain.steps[1]


def test_every_setting_has_a_description():
    sections = json.loads(json.dumps(config.schema()))["$defs"]
    bare = [f"{name}.{key}" for name, section in sections.items() for key, value in section["properties"].items()
            if "description" not in value and key != "budget" and "$ref" not in value]  # fmt: skip
    assert not bare


def test_settings_are_frozen(tmp_path):
    settings = config.load(write(tmp_path)).settings
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3


def test_the_schema_accepts_what_the_loader_accepts():
    document = config.schema()
    assert document["additionalProperties"] is False
    assert set(document["required"]) == {"name", "objective", "data"}


def test_the_settings_page_is_up_to_date():
    from wyrmling.flow import schema

    page = Path(__file__).parent.parent / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == schema.page(), "run: wyrmling schema --markdown > docs/settings.md"
