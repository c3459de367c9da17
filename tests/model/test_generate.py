"""Decoding with a cache says what the full forward pass says, alone or in company."""

from __future__ import annotations

import pytest
import torch

from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.model.attention import Segments
from wyrmling.model.generate import Decoder, generate, score
from wyrmling.model.sampling import Sampling, draw

GREEDY = Sampling(max_tokens=20, temperature=0)


def full_forward_greedy(model, prompt, steps):
    ids = list(prompt)
    for _ in range(steps):
        logits = model.logits(torch.tensor(ids), Segments([len(ids)]), torch.tensor([len(ids) - 1]))
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_greedy_with_a_cache_is_the_argmax_of_the_full_forward(tiny, family):
    model = tiny.model(family)
    prompts = tiny.documents([1, 7, 30])
    answers = generate(model, prompts, GREEDY)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert [token.id for token in answer] == full_forward_greedy(model, prompt, 20)


def test_greedy_is_what_transformers_generates(tiny, tmp_path):
    from wyrmling.model import folder

    model = tiny.model("qwen3")
    folder.save(model, tmp_path, None, folder.About("complete", "next", 64, "causal"))
    judge = tiny.judge(tmp_path)
    prompt = tiny.documents([9])[0]
    theirs = judge.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0)[0, 9:]
    assert [token.id for token in generate(model, [prompt], GREEDY)[0]] == theirs.tolist()


def test_an_answer_does_not_depend_on_what_else_is_answered(tiny):
    model = tiny.model()
    prompts = tiny.documents([5, 3, 12, 8, 20, 2])
    samplings = [
        GREEDY,
        Sampling(max_tokens=15, seed=1),
        Sampling(max_tokens=4, temperature=0.7, top_p=0.9, seed=2),
        Sampling(max_tokens=25, top_k=5, repetition_penalty=1.3, seed=3),
        Sampling(max_tokens=10, temperature=0, frequency_penalty=0.5, presence_penalty=0.2),
        Sampling(max_tokens=8, min_p=0.1, logit_bias={3: 2.0}, seed=4),
    ]
    alone = [[t.id for t in generate(model, [p], s)[0]] for p, s in zip(prompts, samplings, strict=True)]
    decoder = Decoder(model)
    together: dict[int, list[int]] = {}
    # They arrive one per step and leave at different times, so that slots are moved and the cache grows.
    arrivals = list(zip(prompts, samplings, strict=True))
    while arrivals or decoder.running:
        if arrivals:
            together[decoder.add(*arrivals.pop(0))] = []
        for token in decoder.step():
            together[token.handle].append(token.id)
    assert list(together.values()) == alone


def test_removing_an_answer_leaves_the_others_as_they_are(tiny):
    model = tiny.model()
    prompts = tiny.documents([5, 9, 4])
    expected = [token.id for token in generate(model, [prompts[2]], GREEDY)[0]]
    decoder = Decoder(model)
    first, second, third = (decoder.add(prompt, GREEDY) for prompt in prompts)
    got = []
    for step in range(20):
        if step == 3:
            decoder.remove(first)
        if step == 6:
            decoder.remove(second)
            decoder.remove(second)
        got += [token.id for token in decoder.step() if token.handle == third]
    assert got == expected
    assert decoder.running == 0


def test_logprobs_are_the_models_own_before_temperature_and_bias(tiny):
    model = tiny.model()
    prompt = tiny.documents([6])[0]
    sampling = Sampling(max_tokens=8, temperature=0.3, logit_bias={1: 3.0}, seed=0, top_logprobs=3)
    answer = generate(model, [prompt], sampling)[0]
    scored = score(model, prompt + [token.id for token in answer], top_logprobs=3)[len(prompt) - 1 :]
    for token, expected in zip(answer, scored, strict=True):
        assert token.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert [id for id, _ in token.top] == [id for id, _ in expected.top]


def test_answers_end_at_stop_ids_max_tokens_and_the_end_of_the_context(tiny):
    model = tiny.model()
    prompt = tiny.documents([6])[0]
    ids = [token.id for token in generate(model, [prompt], GREEDY)[0]]
    stopped = generate(model, [prompt], Sampling(temperature=0, stop_ids=frozenset({ids[3]})))[0]
    assert [token.id for token in stopped] == ids[: ids.index(ids[3]) + 1]
    assert [token.finish for token in stopped[-2:]][-1] == "stop"
    assert generate(model, [prompt], Sampling(max_tokens=2, temperature=0))[0][-1].finish == "length"
    long = generate(model, [prompt], Sampling(max_tokens=1000, temperature=0))[0]
    assert len(long) == 64 - 6
    assert long[-1].finish == "length"


def test_ids_beyond_the_tokenizer_are_never_drawn(tiny):
    model = tiny.model(tokens=3)
    for token in generate(model, tiny.documents([4]), Sampling(max_tokens=40, temperature=5.0, seed=0))[0]:
        assert token.id < 3


def test_bad_prompts_and_wrong_models_are_refused_before_anything_runs(tiny):
    decoder = Decoder(tiny.model())
    for prompt, message in (([], "empty"), ([1] * 64, "64 tokens"), ([104], "104 is outside")):
        with pytest.raises(BadInput, match=message):
            decoder.add(prompt, GREEDY)
    with pytest.raises(BadSetting, match="masked"):
        Decoder(tiny.model("modernbert"))
    with pytest.raises(BadSetting, match="top_p = 0"):
        Sampling(top_p=0)


def draws(sampling, logits, n=4000, answer=()):
    generator = torch.Generator().manual_seed(0)
    ids = [draw(logits, sampling, [], answer, generator) for _ in range(n)]
    return torch.bincount(torch.tensor(ids), minlength=len(logits)) / n


def test_draws_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    for temperature in (1.0, 0.5):
        expected = (logits / temperature).softmax(-1)
        # Four standard errors of a share at n = 4000.
        assert (draws(Sampling(temperature=temperature), logits) - expected).abs().max() < 4 * 0.5 / 4000**0.5


def test_cuts_keep_the_tokens_their_definition_names():
    logits = torch.tensor([0.4, 0.1, 0.3, 0.2]).log()
    kept = {
        "top_k": (Sampling(top_k=2), {0, 2}),
        "top_p": (Sampling(top_p=0.65), {0, 2}),
        "top_p crossing": (Sampling(top_p=0.71), {0, 2, 3}),
        "min_p": (Sampling(min_p=0.45), {0, 2, 3}),
        "all": (Sampling(), {0, 1, 2, 3}),
    }
    for name, (sampling, expected) in kept.items():
        # The rarest kept token has probability 0.1: 300 draws miss it once in 10¹³ times.
        assert set(draws(sampling, logits, 300).nonzero().flatten().tolist()) == expected, name


def test_penalties_and_bias_change_logits_as_defined():
    logits = torch.tensor([1.0, -1.0, 0.5])
    greedy = {"temperature": 0.0}
    generator = torch.Generator()
    assert draw(logits, Sampling(repetition_penalty=4.0, **greedy), [0], [], generator) == 2
    assert draw(logits, Sampling(presence_penalty=0.4, **greedy), [], [0, 0], generator) == 0
    assert draw(logits, Sampling(frequency_penalty=0.4, **greedy), [], [0, 0], generator) == 2
    assert draw(logits, Sampling(presence_penalty=9.0, **greedy), [0], [], generator) == 0
    assert draw(logits, Sampling(logit_bias={1: 5.0}, **greedy), [], [], generator) == 1
