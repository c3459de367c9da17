"""The official client, unmodified, checking every answer against its own types."""

from __future__ import annotations

import math

import openai
import pytest
import torch

from wyrmling.model import folder as model_folder
from wyrmling.model.attention import Segments
from wyrmling.tokenizer.tokenizer import Tokenizer

PROMPT = "Once upon a time there was"
HELLO = [{"role": "user", "content": "tea?"}]


def logprobs_of(running, ids: list[int]) -> torch.Tensor:
    """Log-softmax at every position, from the folder and not from the server."""
    model = model_folder.load(running.service.loaded.found.folder)
    with torch.no_grad():
        return model.logits(torch.tensor(ids), Segments([len(ids)])).log_softmax(-1)


def test_the_model_is_listed_and_found(teller) -> None:
    client = teller.client()
    listed = client.models.list().data
    assert [model.id for model in listed] == ["teller"]
    assert client.models.retrieve("teller") == listed[0]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("ft:org/base:x")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_greedy_completion_takes_the_likeliest_token_every_time(teller) -> None:
    answer = teller.client().completions.create(model="teller", prompt=PROMPT, max_tokens=12, temperature=0, logprobs=0)
    tokenizer = Tokenizer.load(teller.service.loaded.found.folder)
    ids = tokenizer.prompt(PROMPT)
    for _ in range(answer.usage.completion_tokens):
        ids.append(int(logprobs_of(teller, ids)[-1, : tokenizer.vocab_size].argmax()))
    assert answer.choices[0].text == tokenizer.decode(ids[len(tokenizer.prompt(PROMPT)) :])
    assert answer.usage.prompt_tokens == len(tokenizer.prompt(PROMPT))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].finish_reason == "length"


def test_a_stream_says_the_same_as_one_body(teller) -> None:
    ask = {"model": "teller", "prompt": PROMPT, "max_tokens": 24, "seed": 5, "n": 2, "logprobs": 1}
    whole = teller.client().completions.create(**ask)
    # The client's own type wants a finish_reason on every chunk, which OpenAI leaves null until the last.
    client = teller.client(_strict_response_validation=False)
    texts, reasons, offsets, usage = ["", ""], [None, None], [[], []], None
    for chunk in client.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            offsets[choice.index] += choice.logprobs.text_offset
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert offsets == [choice.logprobs.text_offset for choice in whole.choices]
    assert usage == whole.usage
    assert texts[0] != texts[1]


def test_a_chat_stream_says_the_same_as_one_body(talker) -> None:
    ask = {"model": "talker", "messages": HELLO, "max_tokens": 24, "seed": 3, "logprobs": True, "top_logprobs": 2}
    client = talker.client()
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    scores = [s for c in chunks if c.choices and c.choices[0].logprobs for s in c.choices[0].logprobs.content]
    assert scores == whole.choices[0].logprobs.content
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert [c.choices[0].finish_reason for c in chunks[:-1]][-1] == whole.choices[0].finish_reason


def test_the_stream_helper_of_the_client_understands_us(talker) -> None:
    ask = {"model": "talker", "messages": HELLO, "max_tokens": 8, "seed": 1}
    # The helper takes an answer that was cut off for an error, so this one is stopped by a text that it begins with.
    stop = talker.client().chat.completions.create(**ask).choices[0].message.content[3:]
    with talker.client().chat.completions.stream(**ask, stop=stop) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "stop"
    assert "".join(deltas) == (final.choices[0].message.content or "")


def test_the_same_seed_gives_the_same_answers(talker) -> None:
    def texts(**options: object) -> list[str | None]:
        answer = talker.client().chat.completions.create(model="talker", messages=HELLO, max_tokens=16, **options)
        return [choice.message.content for choice in answer.choices]

    three = texts(seed=7, n=3)
    assert three == texts(seed=7, n=3)
    assert len(set(three)) == 3
    assert texts(seed=7) == three[:1]
    assert texts(seed=8) != three[:1]
    assert texts() != texts()


def test_a_prompt_in_a_list_is_answered_as_if_it_were_alone(teller) -> None:
    def ask(prompt: object) -> list[str]:
        options = {"model": "teller", "max_tokens": 8, "seed": 4, "n": 2}
        return [choice.text for choice in teller.client().completions.create(prompt=prompt, **options).choices]

    assert ask([PROMPT, "tea"]) == ask(PROMPT) + ask("tea")
    ids = Tokenizer.load(teller.service.loaded.found.folder).prompt("tea")
    assert ask(ids) == ask([ids]) == ask("tea")


def test_a_stop_text_may_span_tokens(teller) -> None:
    client = teller.client()
    ask = {"model": "teller", "prompt": PROMPT, "max_tokens": 60, "seed": 11}
    free = client.completions.create(**ask, logprobs=0).choices[0]
    offset = free.logprobs.text_offset[20]
    stop = free.text[offset - 2 : offset + 3]
    assert len(stop) == 5
    stopped = client.completions.create(**ask, stop=["never this", stop])
    assert stopped.choices[0].text == free.text[: free.text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage.completion_tokens <= 24
    streamed = teller.client(_strict_response_validation=False).completions.create(**ask, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == stopped.choices[0].text


def test_logprobs_are_the_models_own_whatever_the_sampling(talker) -> None:
    # Special tokens have no bytes to be recognised by below.
    bias = {str(token): -100 for token in talker.service.loaded.tokenizer.special_ids.values()}
    answer = talker.client().chat.completions.create(
        model="talker", messages=HELLO, max_tokens=10, logprobs=True, top_logprobs=4, temperature=0.2, seed=1,
        presence_penalty=1.5, frequency_penalty=0.5, logit_bias=bias | {"65": 3},
    )  # fmt: skip
    ids = talker.service.loaded.prompt(HELLO)
    tokenizer = talker.service.loaded.tokenizer
    content = answer.choices[0].logprobs.content
    assert content
    for item in content:
        expected = logprobs_of(talker, ids)[-1]
        best = expected[: tokenizer.vocab_size].topk(4)
        assert [other.logprob for other in item.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
        same = [i for i in range(tokenizer.vocab_size) if list(tokenizer.token_bytes(i)) == item.bytes]
        assert len(same) == 1
        assert item.logprob == pytest.approx(float(expected[same[0]]), abs=1e-4)
        ids.append(same[0])
    spelled = bytes(byte for item in content for byte in item.bytes)
    assert spelled.decode("utf-8", "replace") == answer.choices[0].message.content


def test_echo_scores_a_text_without_generating(teller) -> None:
    tokenizer = teller.service.loaded.tokenizer
    answer = teller.client().completions.create(model="teller", prompt=PROMPT, max_tokens=0, echo=True, logprobs=1)
    choice, ids = answer.choices[0], tokenizer.prompt(PROMPT)
    expected = logprobs_of(teller, ids)
    assert choice.text == "".join(choice.logprobs.tokens) == PROMPT
    assert answer.usage.completion_tokens == 0
    assert choice.logprobs.token_logprobs == pytest.approx(
        [float(expected[at, token]) for at, token in enumerate(ids[1:])], abs=1e-4
    )
    for at, token in enumerate(choice.logprobs.tokens):
        assert choice.text[choice.logprobs.text_offset[at] :].startswith(token)
        assert max(choice.logprobs.top_logprobs[at].values()) == pytest.approx(float(expected[at].max()), abs=1e-4)


def test_the_likelihood_of_token_ids_as_evaluation_harnesses_ask_for_it(teller) -> None:
    tokenizer = teller.service.loaded.tokenizer
    rows = [tokenizer.encode("a little dragon"), tokenizer.encode("tea")]
    client = teller.client(_strict_response_validation=False)
    answer = client.completions.create(model="teller", prompt=rows, max_tokens=1, temperature=0, echo=True, logprobs=1)
    for ids, choice in zip(rows, answer.choices, strict=True):
        scores = choice.logprobs.token_logprobs
        assert scores[0] is None, "nothing foretells the first token of a row of ids"
        assert len(scores) == len(ids) + 1
        expected = logprobs_of(teller, ids)
        assert scores[1:-1] == pytest.approx([float(expected[at, token]) for at, token in enumerate(ids[1:])], abs=1e-4)
        # Harnesses cut off the last one, so the generated token is listed even where it ends the text.
        assert scores[-1] == pytest.approx(float(expected[-1, : tokenizer.vocab_size].max()), abs=1e-4)


def test_sampling_settings_do_what_they_say(teller) -> None:
    client = teller.client()

    def ask(**options: object) -> str:
        return client.completions.create(model="teller", prompt=PROMPT, max_tokens=10, **options).choices[0].text

    greedy = ask(temperature=0)
    assert ask(top_p=1e-9, seed=1) == greedy
    assert ask(extra_body={"top_k": 1}, seed=1) == greedy
    token = Tokenizer.load(teller.service.loaded.found.folder).encode("tea")[0]
    spelled = teller.service.loaded.tokenizer.decode([token])
    assert ask(temperature=0, logit_bias={str(token): 100}) == spelled * 10
    repeated = ask(temperature=0, logit_bias={str(token): 40}, frequency_penalty=2)
    assert repeated.startswith(spelled * 2)
    assert ask(seed=1, temperature=2) != ask(seed=1, temperature=0.5)


def test_the_end_of_text_ends_an_answer_and_is_not_shown(teller) -> None:
    end = teller.service.loaded.tokenizer.eos_id
    answer = teller.client().completions.create(
        model="teller", prompt=PROMPT, logit_bias={str(end): 100}, temperature=0, logprobs=1
    )
    assert answer.choices[0].text == ""
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 1
    assert answer.choices[0].logprobs.tokens == ["<|endoftext|>"]
    chat = teller.client().chat.completions.create(
        model="teller", messages=HELLO, logit_bias={str(end): 100}, temperature=0, logprobs=True
    )
    assert (chat.choices[0].message.content, chat.choices[0].logprobs.content) == ("", [])


def test_an_answer_ends_where_the_context_ends(teller) -> None:
    context = teller.service.loaded.context
    end = {str(token): -100 for token in teller.service.loaded.tokenizer.end_ids}
    answer = teller.client().completions.create(model="teller", prompt=PROMPT, max_tokens=10_000, logit_bias=end)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == context


def test_a_model_that_never_learned_to_chat_continues_the_last_user_message(teller) -> None:
    client = teller.client()
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    messages += [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": PROMPT}]
    chat = client.chat.completions.create(model="teller", messages=messages, max_tokens=8, temperature=0)
    plain = client.completions.create(model="teller", prompt=PROMPT, max_tokens=8, temperature=0)
    assert chat.choices[0].message.content == plain.choices[0].text
    assert chat.usage.prompt_tokens == plain.usage.prompt_tokens


def test_developer_is_another_word_for_system_and_parts_are_joined(talker) -> None:
    def ask(messages: list[dict]) -> str | None:
        answer = talker.client().chat.completions.create(
            model="talker", messages=messages, max_completion_tokens=8, temperature=0
        )
        return answer.choices[0].message.content

    parts = [{"type": "text", "text": "te"}, {"type": "text", "text": "a?"}]
    first = ask([{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}])
    assert first == ask([{"role": "system", "content": "Be kind."}, *HELLO])
    assert first != ask(HELLO)


def test_an_answer_can_be_sent_back_as_it_came(talker) -> None:
    client = talker.client()
    first = client.chat.completions.create(model="talker", messages=HELLO, max_tokens=8, seed=1).choices[0].message
    messages = [*HELLO, first.model_dump(), {"role": "user", "content": "And?"}]
    again = client.chat.completions.create(model="talker", messages=messages, max_tokens=8)
    assert again.usage.completion_tokens >= 1


def test_own_routes_work_with_the_stock_client(sorter) -> None:
    client = sorter.client()
    answer = client.post("/classify", body={"model": "sorter", "input": ["my card", "a refund"]}, cast_to=object)
    assert [row["index"] for row in answer["data"]] == [0, 1]
    for row in answer["data"]:
        assert set(row["probabilities"]) == {"card", "refund", "transfer"}
        assert math.fsum(row["probabilities"].values()) == pytest.approx(1)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].__getitem__)
    receipt = client.post("/feedback", body={"id": answer["id"], "rating": "up"}, cast_to=object)
    assert receipt["answer_id"] == answer["id"]


def test_moderations_say_what_was_looked_at_and_what_was_found(teller) -> None:
    texts = ["You idiot!", "An idiom.", "Write to anna@example.com, idiot."]
    answer = teller.client().moderations.create(input=texts)
    assert [one.flagged for one in answer.results] == [True, False, True]
    for one in answer.results:
        looked_at = {name for name, kinds in one.category_applied_input_types.to_dict().items() if kinds}
        assert looked_at == set(answer.categories_checked) == {"harassment"}
        found = one.categories.to_dict()
        assert found.pop("harassment") == one.flagged and not any(found.values()) and len(found) == 12
        assert one.category_scores.to_dict() == {name: float(is_) for name, is_ in one.categories.to_dict().items()}
    assert [one.private_data for one in answer.results[:2]] == [[], []]
    (spot,) = answer.results[2].private_data
    assert (spot["type"], texts[2][spot["start"] : spot["end"]]) == ("EMAIL", "anna@example.com")
    assert teller.client().moderations.create(model="word-list", input="tea").results[0].flagged is False


def test_another_moderation_model_or_an_image_is_refused(teller) -> None:
    with pytest.raises(openai.NotFoundError, match="leave model out"):
        teller.client().moderations.create(model="omni-moderation-latest", input="tea")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for wrong in ([], [image], [{"type": "text", "text": "tea"}, image]):
        with pytest.raises(openai.BadRequestError) as caught:
            teller.client().moderations.create(input=wrong)
        assert caught.value.param.startswith("input")


async def _aid(address: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
        answer = await client.completions.create(model="teller", prompt="tea", max_tokens=3, temperature=0)
    return answer.choices[0].text


def test_the_asynchronous_client_works_too(teller) -> None:
    import asyncio

    assert asyncio.run(_aid(teller.address)) == asyncio.run(_aid(teller.address))
