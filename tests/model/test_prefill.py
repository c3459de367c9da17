"""Prompts read in pieces, and beginnings that were read before, give the answers of prompts read at once."""

from __future__ import annotations

import pytest
import torch

from wyrmling.model.cache import BLOCK, Prefixes
from wyrmling.model.generate import Decoder, Token, generate
from wyrmling.model.sampling import Sampling
from wyrmling.model.transformer import Local

GREEDY = Sampling(max_tokens=12, temperature=0)
# Rotary, learned and no positions; layers that see all and layers that see five tokens back.
FAMILIES = {"llama": {}, "gpt2": {}, "bloom": {}, "mistral": {"local": Local(5, (True, False, True))}}


def answers(decoder: Decoder, prompts: list[list[int]], owner: str = "") -> list[list[Token]]:
    found: dict[int, list[Token]] = {decoder.add(prompt, GREEDY, owner=owner): [] for prompt in prompts}
    while decoder.running:
        for token in decoder.step():
            found[token.handle].append(token)
    return list(found.values())


def ids(answers: list[list[Token]]) -> list[list[int]]:
    return [[token.id for token in answer] for answer in answers]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_read_in_pieces_gets_the_same_answer(tiny, family):
    model = tiny.model(family, **FAMILIES[family])
    prompts = tiny.documents([40, 3, 17, 50, 8])
    expected = generate(model, prompts, GREEDY)
    for piece in (1, 7, 16):
        given = answers(Decoder(model, piece=piece), prompts)
        assert ids(given) == ids(expected)
        for ours, theirs in zip(given, expected, strict=True):
            assert [t.logprob for t in ours] == pytest.approx([t.logprob for t in theirs], abs=1e-4)


def test_answers_go_on_while_a_long_prompt_is_read_and_short_prompts_share_a_step(tiny):
    decoder = Decoder(tiny.model(), piece=8)
    first = decoder.add(tiny.documents([4])[0], GREEDY)
    decoder.step()
    long = decoder.add(tiny.documents([40])[0], GREEDY)
    two = [decoder.add(prompt, GREEDY) for prompt in tiny.documents([3, 4])]
    steps = [{token.handle for token in decoder.step()} for _ in range(6)]
    assert steps == [{first}] * 4 + [{first, long}, {first, long, *two}]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_begins_like_a_text_that_was_read_is_not_read_again(tiny, family):
    model = tiny.model(family, **FAMILIES[family])
    prompt = tiny.documents([50])[0]
    decoder = Decoder(model, piece=16, prefixes=Prefixes(1 << 20))
    expected = generate(model, [prompt], GREEDY)[0]
    first, again = (answers(decoder, [prompt])[0] for _ in range(2))
    assert ids([first, again]) == ids([expected, expected])
    assert (first[0].cached, again[0].cached) == (0, BLOCK)
    assert all(token.cached == 0 for token in again[1:])
    other = [*prompt[: BLOCK + 4], *tiny.documents([9])[0]]
    assert ids(answers(decoder, [other])) == ids(generate(model, [other], GREEDY))


def test_a_conversation_goes_on_from_what_was_answered(tiny):
    model = tiny.model()
    decoder = Decoder(model, prefixes=Prefixes(1 << 20))
    prompt = tiny.documents([BLOCK - 6])[0]
    said = ids(answers(decoder, [prompt]))[0]
    # The last token of an answer is never read; a block is whole without it.
    following = [*prompt, *said[:-1], *tiny.documents([7])[0]]
    answer = answers(decoder, [following])[0]
    assert answer[0].cached == BLOCK
    assert ids([answer]) == ids(generate(model, [following], GREEDY))


def test_nobody_gets_what_was_read_for_another_and_all_of_a_prompt_is_never_known(tiny):
    decoder = Decoder(tiny.model(), prefixes=Prefixes(1 << 20))
    prompt = tiny.documents([BLOCK])[0]
    answers(decoder, [prompt], owner="ann")
    assert answers(decoder, [prompt], owner="bob")[0][0].cached == 0
    assert answers(decoder, [prompt], owner="ann")[0][0].cached == 0, "its last token has to be read"
    assert answers(decoder, [[*prompt, 5]], owner="ann")[0][0].cached == BLOCK


def test_the_least_used_is_forgotten_first():
    kv = torch.zeros(2, 1, 1, BLOCK, 4)
    prefixes = Prefixes(2 * kv.nbytes)
    texts = [[number] * (BLOCK + 1) for number in range(3)]
    for text in texts[:2]:
        prefixes.keep("", text, kv)
    assert prefixes.find("", texts[0])
    prefixes.keep("", texts[2], kv)
    assert [bool(prefixes.find("", text)) for text in texts] == [True, False, True]
    small = Prefixes(kv.nbytes - 1)
    small.keep("", texts[0], kv)
    assert not small.find("", texts[0])


def test_a_prompt_can_be_given_up_while_it_is_read(tiny):
    model = tiny.model()
    decoder = Decoder(model, piece=4)
    prompts = tiny.documents([30, 6])
    gone, stays = (decoder.add(prompt, GREEDY) for prompt in prompts)
    decoder.step()
    decoder.remove(gone)
    given = []
    while decoder.running:
        given += decoder.step()
    assert {token.handle for token in given} == {stays}
    assert [token.id for token in given] == ids(generate(model, prompts[1:], GREEDY))[0]
