"""A training step behind an OpenAI-compatible fine-tuning API: the prepared rows go there, a model's name comes back.

What was uploaded and the id of the job are kept in the step's work folder, so whoever is stopped follows the same job
when the command is run again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wyrmling.config import Project, TrainStep
from wyrmling.core import artifact, resolve
from wyrmling.core.artifact import Artifact, Draft, Key, write_durably
from wyrmling.core.errors import BadInput, BadSetting, Interrupted, NothingToLearn
from wyrmling.core.log import say, warn
from wyrmling.evaluate import remote_model, tasks
from wyrmling.evaluate.chat_api import CHARACTERS_PER_TOKEN, TRIES, Api, Messages, Unanswered
from wyrmling.evaluate.remote_model import Remote, require
from wyrmling.train import signals

VERSION = 1
# Passes over the rows where the step names none; it is always said to the API, so that the price is the one agreed to.
EPOCHS = 3
TASKS = {"classify": "classify", "answer": "sft", "summarize": "sft"}
STATE, EVENTS = "job.json", "events.jsonl"
# Between two looks at a job; the first ones are soon, for jobs that are refused at once.
LOOK_SECONDS, MOST_LOOK_SECONDS, NAP_SECONDS = 0.5, 20.0, 0.1
OVER = ("succeeded", "failed", "cancelled")
_STEP = {"name", "objective", "sources", "epochs"}


@dataclass(frozen=True)
class Price:
    """What a job would take. tokens: of one epoch, guessed from characters."""

    rows: int
    tokens: int
    epochs: int
    per_million: float

    @property
    def usd(self) -> float:
        return self.tokens * self.epochs * self.per_million / 1e6

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens x {self.epochs} epochs at ${self.per_million:g} per million"


@dataclass
class State:
    """What was done of a job, kept before the next thing is."""

    training_file: str | None = None
    validation_file: str | None = None
    job: str | None = None

    @staticmethod
    def read(folder: Path) -> State:
        path = folder / STATE
        return State(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else State()

    def keep(self, folder: Path) -> None:
        write_durably(folder / STATE, json.dumps(asdict(self), indent=1).encode())


def step_of(project: Project) -> TrainStep:
    """The one step of a project that is trained behind an API. Raises BadSetting for what an API can't do."""
    settings, task = project.settings, project.settings.objective.task
    (step, *more) = project.steps
    problems = {
        "model.remote.url": settings.model.remote.url is None and "says where the API begins; it is not set",
        "objective.task": task not in TASKS and f"is {task!r}; an API can be trained for {', '.join(TASKS)}",
        "train": bool(more) and "has several steps; a model behind an API takes one",
        f"train.{step.name}.objective": step.objective != TASKS.get(task) and f"has to be {TASKS.get(task)!r} here",
        f"train.{step.name}.epochs": (step.epochs or 1) % 1 != 0 and "has to be a whole number for an API",
    }
    unused = [f"train.{step.name}.{name}" for name in sorted(step.model_fields_set - _STEP)]
    unused += [f"model.{name}" for name in sorted(settings.model.model_fields_set - {"base", "remote"})]
    problems |= dict.fromkeys(unused, "has no meaning for a model behind an API")
    for where, problem in problems.items():
        if problem:
            raise BadSetting(f"{where} {problem}", where=where, fix="mend the setting, or train here with another base")
    return step


def price(project: Project, tokens: float, rows: int) -> Price:
    """Raises BadSetting when it is not known. tokens: of one epoch"""
    asked, step = project.settings.model.remote, step_of(project)
    assert asked.url is not None
    per_million = asked.usd_per_million_training
    if per_million is None and not remote_model.is_near(asked.url):
        raise BadSetting(
            "what training behind the API costs is not known",
            where="model.remote",
            fix="set usd_per_million_training; 0 for a server of your own",
        )
    return Price(rows, round(tokens), int(step.epochs or EPOCHS), per_million or 0.0)


def price_of(project: Project, data: Artifact) -> Price:
    """The price of training on the rows of a data artifact."""
    rows = _examples(project, data, "train")
    characters = sum(len(one["content"]) for messages in rows for one in messages)
    return price(project, characters / CHARACTERS_PER_TOKEN, len(rows))


def agree(project: Project, data: Artifact, limit_usd: float | None, *, asking: bool = False) -> None:
    """Before anything is sent. A job that was begun, or is done, needs no word.

    asking   whether the test rows are asked for afterwards, at a price too
    Raises   UsageError that names the price, unless that much may be spent
    """
    key, url = _key(project, data), project.settings.model.remote.url
    assert url is not None
    remote_model.check_conditions(project)
    if artifact.find(project.runs, key) is not None or State.read(key.work(project.runs)).job is not None:
        return
    cost = price_of(project, data)
    what, usd = f"training {project.settings.model.base} would send {cost.rows:,} rows to {url} ({cost})", cost.usd
    if asking:
        rows = tasks.from_artifact(data, project.settings.objective.task)
        test = remote_model.estimate(project, url, rows)
        what, usd = f"{what}, then ask it for {test.rows:,} test rows", usd + test.usd
    require(what, usd, limit_usd)


def run(project: Project, data: Artifact, *, limit_usd: float | None) -> Artifact:
    """The artifact of the step: found, or made by a job behind the API that is followed to its end.

    limit_usd   what the job may cost. None: nothing is sent; a job that was begun before is followed
    Raises      UsageError without consent; BadInput when the API refuses or the job fails; Interrupted (exit 75) after
                a signal, while the job goes on
    """
    key = _key(project, data)
    if (done := artifact.find(project.runs, key)) is not None:
        return done
    agree(project, data, limit_usd)
    asked, base = project.settings.model.remote, project.settings.model.behind
    assert asked.url is not None and base is not None
    api = Api(asked.url, base, asked.key, asked.timeout_seconds)
    with artifact.create(project.runs, key, project.meter(), resume=True) as draft:
        state = State.read(draft.path)
        with signals.watch() as stop:
            _start(project, data, api, state, draft.path)
            job = _follow(api, state, draft.path, stop)
        _require_success(job, draft.path)
        _finish(project, data, job, draft)
    return draft.done


def _key(project: Project, data: Artifact) -> Key:
    step, settings = step_of(project), project.settings
    shaping = {
        "remote": {"url": settings.model.remote.url, "base": settings.model.base},
        "step": {"objective": step.objective, "sources": step.sources, "epochs": int(step.epochs or EPOCHS)},
        "task": settings.objective.task,
        "seed": settings.seed,
    }
    return Key("train", step.name, {"data": data.id}, shaping, VERSION)


# ---- what is sent ----


def _examples(project: Project, data: Artifact, split: str) -> list[Messages]:
    """The rows of a split as conversations. Raises NothingToLearn when there is none to train on."""
    step, task = step_of(project), project.settings.objective.task
    found = [remote_model.conversation(row) for row in tasks.read_split(data, task, split, step.sources)]
    if split == "train" and not found:
        raise NothingToLearn(
            f"there are no training rows of kind {' or '.join(tasks.KINDS[task])}",
            where=f"train.{step.name}.sources",
            fix="name sources that have such rows",
        )
    return found


def _start(project: Project, data: Artifact, api: Api, state: State, folder: Path) -> None:
    """Upload and begin; what was done before is not done again."""
    if state.job is not None:
        say(f"following the job {state.job}")
        return
    state.training_file = state.training_file or _upload(api, "training", _examples(project, data, "train"))
    state.keep(folder)
    if val := _examples(project, data, "val"):
        state.validation_file = state.validation_file or _upload(api, "validation", val)
        state.keep(folder)
    state.job = _create(api, state, _request(project, api, state))
    state.keep(folder)
    say(f"the job {state.job} has begun at {api.url}")


def _upload(api: Api, name: str, rows: list[Messages]) -> str:
    content = "".join(json.dumps({"messages": row}, ensure_ascii=False) + "\n" for row in rows).encode()
    say(f"uploading {len(rows):,} {name} rows, {len(content) / 1e6:.2f} MB")
    return str(api.upload("/files", f"{name}.jsonl", content, {"purpose": "fine-tune"})["id"])


def _request(project: Project, api: Api, state: State) -> dict[str, Any]:
    epochs = int(step_of(project).epochs or EPOCHS)
    body = {
        "model": api.model,
        "training_file": state.training_file,
        "suffix": project.settings.name[:64],
        "seed": project.settings.seed % 2**31,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs}}},
    }
    return body if state.validation_file is None else {**body, "validation_file": state.validation_file}


def _create(api: Api, state: State, body: Mapping[str, Any]) -> str:
    """The id of the job. A request whose answer was lost may have made one: it has the file that only we uploaded."""
    for attempt in range(TRIES):
        jobs = api.get("/fine_tuning/jobs?limit=100").get("data") or []
        known = [one["id"] for one in jobs if one.get("training_file") == state.training_file]
        if known:
            return str(known[0])
        try:
            return str(api.post("/fine_tuning/jobs", body, tries=1)["id"])
        except Unanswered:
            if attempt + 1 == TRIES:
                raise
            time.sleep(LOOK_SECONDS)
    raise AssertionError("unreachable")


# ---- following ----


def _follow(api: Api, state: State, folder: Path, stop: signals.Stop) -> dict[str, Any]:
    """The job once it is over; its events are told and kept as they come. Raises Interrupted after a signal."""
    kept = folder / EVENTS
    seen = (
        {json.loads(line)["id"] for line in kept.read_text(encoding="utf-8").splitlines()} if kept.exists() else set()
    )
    wait = LOOK_SECONDS
    while True:
        job = api.get(f"/fine_tuning/jobs/{state.job}")
        with kept.open("a", encoding="utf-8") as lines:
            for event in reversed(list(_new_events(api, state, seen))):
                seen.add(event["id"])
                lines.write(json.dumps(event, ensure_ascii=False) + "\n")
                say(f"  {event['message']}")
        if job["status"] in OVER:
            return job
        _nap(wait, stop, state, api)
        wait = min(MOST_LOOK_SECONDS, wait * 1.2)


def _new_events(api: Api, state: State, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Newest first, as the API pages them, until one is known."""
    after = ""
    while True:
        page = api.get(f"/fine_tuning/jobs/{state.job}/events?limit=100{after}")
        for event in page["data"]:
            if event["id"] in seen:
                return
            yield event
        if not page.get("has_more") or not page["data"]:
            return
        after = f"&after={page['data'][-1]['id']}"


def _nap(seconds: float, stop: signals.Stop, state: State, api: Api) -> None:
    """Wait, and look now and then whether to stop."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if stop.signal is not None:
            raise Interrupted(
                f"stopped by {stop.signal}; the job {state.job} goes on, and so does its price",
                where=api.url,
                fix="run the same command again to follow it, or cancel it there",
            )
        time.sleep(NAP_SECONDS)


def _require_success(job: Mapping[str, Any], folder: Path) -> None:
    """Raises BadInput for a job that made no model; the next run begins a new one, and asks for consent again."""
    if job["status"] == "succeeded" and job.get("fine_tuned_model"):
        return
    (folder / STATE).unlink()
    (folder / EVENTS).unlink(missing_ok=True)
    error = job.get("error") or {}
    raise BadInput(
        f"the job {job['id']} has {job['status']}: {error.get('message') or 'the API gives no reason'}",
        where=f"model.remote: {job['model']}",
        fix="mend what it names, and run the command again with --spend: that begins a new job",
    )


# ---- what is kept ----


def _finish(project: Project, data: Artifact, job: Mapping[str, Any], draft: Draft) -> None:
    """The model folder, which says where the model answers, and the figures of the step."""
    settings, said = project.settings, price_of(project, data)
    trained = job.get("trained_tokens")
    tokens = said.tokens * said.epochs if trained is None else int(trained)
    usd = tokens * said.per_million / 1e6
    url, base = settings.model.remote.url, settings.model.base
    assert url is not None
    model = Remote(url, str(job["fine_tuned_model"]), base, str(job["id"]), tokens, usd)
    if trained is None:
        warn(f"{url} does not say how many tokens were learned: {tokens:,} is a guess")
    (draft.path / "model").mkdir(exist_ok=True)
    text = json.dumps(model._asdict(), indent=1, ensure_ascii=False)
    write_durably(draft.path / "model" / resolve.REMOTE, text.encode())
    steps, loss = _progress(draft.path / EVENTS)
    draft.earlier_cost = {"usd": usd}
    draft.figures = {
        "steps": steps, "tokens": tokens, "loss": loss, "val": None, "parameters": None, "paid_usd": usd,
        "remote": model._asdict(),
        "objective": artifact.digest(project.settings.objective.model_dump(mode="json")),
    }  # fmt: skip


def _progress(events: Path) -> tuple[int, float | None]:
    """The last step and loss that the events name; 0 and None where they name none."""
    steps, loss = 0, None
    for line in events.read_text(encoding="utf-8").splitlines():
        about = json.loads(line).get("data") or {}
        if "train_loss" in about:
            steps, loss = int(about.get("step", steps)), float(about["train_loss"])
    return steps, loss
