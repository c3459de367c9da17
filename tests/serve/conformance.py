"""What a client of the OpenAI API does, with the official client as it comes: python conformance.py URL MODEL [JOB].

Runs with the majors 1, 2 and 3 of the client. Makes a fine-tuning job from pairs of answers, or, as training takes
long, follows a supervised one that another client has made, and deletes its model in the end; JOB "new" makes that one
and leaves its model. Prints one line that ends with "ok" and the job's id, or fails.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

import openai

URL, MODEL = sys.argv[1:3]
JOB = sys.argv[3] if len(sys.argv) > 3 else None
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0, _strict_response_validation=True)
WORDS = (
    "tea",
    "dragon",
    "hill",
    "cake",
    "river",
    "stone",
    "moon",
    "apple",
    "forest",
    "lamp",
    "garden",
    "bird",
    "cloud",
)
HELLO = [{"role": "user", "content": "tea hill dragon"}]


def refused(kind: type[openai.APIStatusError], ask, **expected: object) -> None:
    try:
        ask()
    except kind as error:
        found = {name: getattr(error, name) for name in expected}
        assert found == expected, found
        assert error.request_id and error.request_id.startswith("req-")
    else:
        raise AssertionError("nothing was refused")


def examples(count: int, seed: int = 0) -> bytes:
    draw = random.Random(seed)
    rows = [[" ".join(draw.choices(WORDS, k=draw.randint(4, 10))) for _ in range(2)] for _ in range(count)]
    roles = ("user", "assistant")
    lines = [
        json.dumps({"messages": [{"role": r, "content": c} for r, c in zip(roles, row, strict=True)]}) for row in rows
    ]
    return "\n".join(lines).encode()


def pairs(count: int) -> bytes:
    draw, lines = random.Random(0), []
    for number in range(count):
        question = {"messages": [{"role": "user", "content": f"{' '.join(draw.choices(WORDS, k=5))} {number}"}]}
        good, bad = (" ".join(draw.choices(words, k=4)) for words in (WORDS[:6], WORDS[6:]))
        sides = {"preferred_output": good, "non_preferred_output": bad}
        answers = {name: [{"role": "assistant", "content": text}] for name, text in sides.items()}
        lines.append(json.dumps({"input": question, **answers}))
    return "\n".join(lines).encode()


def files() -> str:
    """Upload in every way, page, read back, delete; the id of the training file."""
    raw = client.files.create(file=b"{}\n", purpose="fine-tune")
    assert (raw.filename, raw.bytes, raw.status, raw.expires_at) == ("upload", 3, "processed", None)
    train = client.files.create(file=("../../etc/tea.jsonl", examples(60)), purpose="fine-tune")
    assert train.filename == "../../etc/tea.jsonl", "a name is only shown"
    soon = client.files.create(
        file=("soon.jsonl", b"x"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert 3590 <= soon.expires_at - soon.created_at <= 3610
    assert client.files.wait_for_processing(train.id).id == train.id
    assert client.files.content(train.id).read() == examples(60)
    assert [file.id for file in client.files.list(limit=1)][:3] == [soon.id, train.id, raw.id], "pages, newest first"
    assert [file.id for file in client.files.list(order="asc", purpose="fine-tune")][-2:] == [raw.id, train.id]
    assert client.files.delete(raw.id).deleted
    refused(openai.NotFoundError, lambda: client.files.retrieve(raw.id), param="id", code="file_not_found")
    refused(openai.BadRequestError, lambda: client.files.create(file=b"x", purpose="tea"), code="invalid_value")
    refused(openai.BadRequestError, lambda: list(client.files.list(after="file-none")), param="after")
    return train.id


def wrong_jobs(train: str) -> None:
    jobs = client.fine_tuning.jobs
    bad = client.files.create(file=("bad.jsonl", examples(12) + b'\n{"messages": []}'), purpose="fine-tune").id
    job = finished(jobs.create(model=MODEL, training_file=bad).id)
    assert (job.status, job.error.code, job.error.param) == ("failed", "invalid_training_file", "training_file")
    assert "line 13" in job.error.message
    refused(openai.BadRequestError, lambda: jobs.create(model=MODEL, training_file="file-no"), param="training_file")
    refused(openai.NotFoundError, lambda: jobs.create(model="tea", training_file=train), code="model_not_found")
    method = {"type": "reinforcement", "reinforcement": {"grader": {}}}
    refused(
        openai.BadRequestError,
        lambda: jobs.create(model=MODEL, training_file=train, method=method),
        code="unsupported_parameter",
    )
    refused(openai.BadRequestError, lambda: jobs.cancel(job.id), code="job_is_over")
    refused(openai.NotFoundError, lambda: jobs.retrieve("ftjob-none"), code="fine_tune_not_found")


def finished(job_id: str):
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(0.2)
    raise AssertionError(f"{job_id} is still {job.status}")


def fine_tune(train: str) -> tuple[str, str]:
    """A job from its making to its model; its id and the model's name."""
    jobs = client.fine_tuning.jobs
    if JOB in (None, "new"):
        method = "supervised" if JOB else "dpo"
        hyperparameters = {"n_epochs": 3, "batch_size": 16, "learning_rate_multiplier": 2.0}
        if method == "dpo":
            train = client.files.create(file=("pairs.jsonl", pairs(60)), purpose="fine-tune").id
            hyperparameters = {"n_epochs": 3, "beta": 0.5}
        job = jobs.create(
            model=MODEL, training_file=train, suffix="tea", seed=7, metadata={"team": "a b"},
            method={"type": method, method: {"hyperparameters": hyperparameters}},
        )  # fmt: skip
        assert job.status == "validating_files" and job.fine_tuned_model is None
    else:
        job = jobs.retrieve(JOB)
    other = jobs.create(model=MODEL, training_file=train, hyperparameters={"n_epochs": 50})
    assert jobs.cancel(other.id).status == "cancelled"
    assert next(found.id for found in jobs.list(limit=1)) == other.id
    assert next(iter(jobs.list(extra_query={"metadata[team]": "a b"}))).id == job.id
    job = finished(job.id)
    assert job.status == "succeeded", job.error
    assert (job.seed, job.trained_tokens > 0, job.finished_at >= job.created_at) == (7, True, True)
    if job.method.type == "dpo":
        assert job.method.dpo.hyperparameters.beta == 0.5
    else:
        assert job.method.supervised.hyperparameters.batch_size == 16
    events = list(jobs.list_events(job.id, limit=10))
    assert len({event.id for event in events}) == len(events) > 10
    assert events[-1].message.startswith("Created") and job.fine_tuned_model in events[0].message
    losses = [
        event.data["train_loss"] for event in events[::-1] if event.type == "metrics" and "train_loss" in event.data
    ]
    # The loss of a preference begins at log 2.
    assert losses[-1] < losses[0] - (0.05 if job.method.type == "dpo" else 1), f"it has learned: {losses}"
    said = {name: data for event in events for name, data in (event.data or {}).items()}
    assert said["kept"] == 60 and said["cost"]["usd"] > 0 and said["forecast"]["minutes"]["value"] > 0
    checkpoint = next(iter(jobs.checkpoints.list(job.id)))
    assert checkpoint.metrics.train_loss == losses[-1]
    assert checkpoint.step_number == len(client.files.content(job.result_files[0]).text.splitlines()) - 1
    answer = client.chat.completions.create(
        model=checkpoint.fine_tuned_model_checkpoint, messages=HELLO, max_tokens=4, temperature=0
    )
    same = client.chat.completions.create(model=job.fine_tuned_model, messages=HELLO, max_tokens=4, temperature=0)
    assert answer.choices[0].message == same.choices[0].message
    return job.id, job.fine_tuned_model


def use(tuned: str) -> None:
    assert {MODEL, tuned} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(tuned).id == tuned
    ask = {"model": tuned, "messages": HELLO, "max_tokens": 12, "seed": 3, "logprobs": True, "top_logprobs": 2, "n": 2}
    whole = client.chat.completions.create(**ask)
    assert whole.model == tuned and whole.usage.completion_tokens > 0
    mine = client.chat.completions.create(**ask | {"model": MODEL})
    assert [c.message.content for c in mine.choices] != [c.message.content for c in whole.choices]
    texts = ["", ""]
    for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    vectors = client.embeddings.create(model=tuned, input=["tea", "hill"], encoding_format="float").data
    assert sum(x * x for x in vectors[0].embedding) - 1 < 1e-5
    # By itself the client asks for base64 and decodes it, which its strict mode then refuses.
    loose = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
    decoded = loose.embeddings.create(model=tuned, input=["tea", "hill"]).data
    assert all(
        abs(a - b) < 1e-6
        for one, two in zip(vectors, decoded, strict=True)
        for a, b in zip(one.embedding, two.embedding, strict=True)
    )
    assert asyncio.run(paged()) == [file.id for file in client.files.list()]
    if JOB == "new":
        return
    assert client.models.delete(tuned).deleted
    refused(openai.NotFoundError, lambda: client.models.retrieve(tuned), code="model_not_found", param="model")
    refused(openai.NotFoundError, lambda: client.chat.completions.create(**ask), code="model_not_found")


def forms() -> None:
    """Answers by a JSON schema and calls of functions, whole and streamed."""
    shape = {
        "type": "object",
        "properties": {"tea": {"type": "boolean"}},
        "required": ["tea"],
        "additionalProperties": False,
    }
    json_schema = {"name": "wish", "strict": True, "schema": shape}
    ask = {"model": MODEL, "messages": HELLO, "max_tokens": 300, "seed": 1}
    answer = client.chat.completions.create(**ask, response_format={"type": "json_schema", "json_schema": json_schema})
    assert isinstance(json.loads(answer.choices[0].message.content)["tea"], bool)
    tools = [{"type": "function", "function": {"name": "brew", "parameters": shape}}]
    called = client.chat.completions.create(**ask, tools=tools, tool_choice="required").choices[0]
    assert called.finish_reason == "tool_calls"
    assert isinstance(json.loads(called.message.tool_calls[0].function.arguments)["tea"], bool)
    stream = client.chat.completions.create(**ask, tools=tools, tool_choice="required", stream=True)
    calls = [call for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert [call.function.arguments for call in calls] == [called.message.tool_calls[0].function.arguments]


async def paged() -> list[str]:
    async with openai.AsyncOpenAI(base_url=URL, api_key="none") as aid:
        return [file.id async for file in aid.files.list(limit=1)]


if __name__ == "__main__":
    training_file = files()
    wrong_jobs(training_file)
    forms()
    made, tuned = fine_tune(training_file)
    use(tuned)
    print(f"openai {openai.__version__}: ok {made}")
