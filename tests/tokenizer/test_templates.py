"""Templates of published models: rendered as `transformers` renders them, and what is learned follows from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from wyrmling.tokenizer import chat, folder
from wyrmling.tokenizer.tokenizer import Tokenizer

TEMPLATES = Path(__file__).parent / "templates"
TURNS = [
    {"role": "user", "content": "My card was stolen!  What now?"},
    {"role": "assistant", "content": "Freeze it in the app."},
    {"role": "user", "content": "Done.\n\nAnd then? 🙂"},
    {"role": "assistant", "content": "We send a new one."},
]
# Template -> bos, eos, and what the model learns to say of TURNS, special tokens by name.
BOTH = "Freeze it in the app.{end}We send a new one.{end}"
KNOWN = {
    "gemma": ("<bos>", "<eos>", BOTH.format(end="<end_of_turn>")),
    "gemma3": ("<bos>", "<eos>", BOTH.format(end="<end_of_turn>")),
    "llama2": ("<s>", "</s>", " Freeze it in the app. </s> We send a new one. </s>"),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", BOTH.format(end="<|eot_id|>")),
    "mistral": ("<s>", "</s>", " Freeze it in the app.</s> We send a new one.</s>"),
    "phi3_5": (None, "<|endoftext|>", BOTH.format(end="<|end|>")),
    "qwen2_5": (None, "<|endoftext|>", BOTH.format(end="<|im_end|>")),
    # It shows thoughts of the last answer only, and the model is only asked for a last answer.
    "qwen3": (None, "<|im_end|>", "<think>\n\n</think>\n\nWe send a new one.<|im_end|>"),
    "qwen3_training": (
        None,
        "<|im_end|>",
        "<think>\n\n</think>\n\nFreeze it in the app.<|im_end|>\n<think>\n\n</think>\n\nWe send a new one.<|im_end|>\n",
    ),
    "zephyr": ("<s>", "</s>", BOTH.format(end="</s>")),
}
SPECIAL = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<s>", "</s>", "<|begin_of_text|>", "<|end_of_text|>",
           "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|system|>", "<|user|>", "<|assistant|>",
           "<|end|>"]  # fmt: skip


def both(scratch: Path, to: Path, name: str, special: list[Any] | None = None) -> tuple[Tokenizer, Any]:
    """Our tokenizer and that of transformers, of a folder with this template."""
    hf = tokenizers.Tokenizer.from_file(str(scratch / "tokenizer.json"))
    hf.add_special_tokens(special or SPECIAL)
    hf.save(str(to / "tokenizer.json"))
    bos, eos, _ = KNOWN[name]
    named = {"bos_token": bos, "eos_token": eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    (to / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    (to / "chat_template.jinja").write_bytes((TEMPLATES / f"{name}.jinja").read_bytes())
    return Tokenizer.load(to), PreTrainedTokenizerFast.from_pretrained(to)


def as_text(tokenizer: Tokenizer, ids: list[int], learn: list[bool]) -> str:
    names = {id_: special for special, id_ in tokenizer.special_ids.items()}
    shown: list[bytes] = []
    for id_, is_learned in zip(ids, learn, strict=True):
        if is_learned:
            shown.append(names[id_].encode() if id_ in names else tokenizer.token_bytes(id_))
    return b"".join(shown).decode()


@pytest.mark.parametrize("name", KNOWN)
def test_a_conversation_is_rendered_as_transformers_renders_it(scratch: Path, tmp_path: Path, name: str) -> None:
    ours, theirs = both(scratch, tmp_path, name)
    # An answer that begins with a space joins the text before it there; here the prompt ends where the answer begins.
    same_ids = name not in ("llama2", "mistral")
    for n in range(1, len(TURNS) + 1):
        for prompt in (False, True) if n % 2 else (False,):
            text = theirs.apply_chat_template(TURNS[:n], add_generation_prompt=prompt, tokenize=False)
            pieces = chat.pieces(ours, TURNS[:n], add_generation_prompt=prompt)
            assert "".join(piece.text for piece in pieces) == text
            if same_ids:
                expected = theirs.apply_chat_template(TURNS[:n], add_generation_prompt=prompt)["input_ids"]
                assert chat.render(ours, TURNS[:n], prompt)[0] == expected


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_learned_follows_from_the_template(scratch: Path, tmp_path: Path, name: str) -> None:
    ours, _ = both(scratch, tmp_path, name)
    ids, learn = chat.render(ours, TURNS)
    assert as_text(ours, ids, learn) == KNOWN[name][2]
    end = KNOWN[name][2][KNOWN[name][2].rindex("<") :].rstrip()
    assert ours.special_ids[end] in ours.end_ids
    assert chat.learned_rule(ours).endswith(f"each with its {end}") or "the last answer" in chat.learned_rule(ours)


def test_generation_blocks_are_learned_as_transformers_masks_them(scratch: Path, tmp_path: Path) -> None:
    ours, theirs = both(scratch, tmp_path, "qwen3_training")
    expected = theirs.apply_chat_template(TURNS, return_assistant_tokens_mask=True, return_dict=True)
    ids, learn = chat.render(ours, TURNS)
    assert ids == expected["input_ids"]
    assert [int(is_learned) for is_learned in learn] == expected["assistant_masks"]


def test_a_block_around_the_words_alone_still_teaches_to_stop(scratch: Path, tmp_path: Path) -> None:
    ours, _ = both(scratch, tmp_path, "qwen2_5")
    words = "{% generation %}{{ m.content }}{% endgeneration %}"
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}" + words + "{% else %}"
        "{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}",
        encoding="utf-8",
    )
    ours = Tokenizer.load(tmp_path)
    assert as_text(ours, *chat.render(ours, TURNS)) == BOTH.format(end="<|im_end|>")


def test_a_template_that_opens_a_thought_is_told_to_leave_it_out(scratch: Path, tmp_path: Path) -> None:
    ours, theirs = both(scratch, tmp_path, "qwen2_5")
    (tmp_path / "chat_template.jinja").write_bytes((TEMPLATES / "thinks_first.jinja").read_bytes())
    ours, theirs = Tokenizer.load(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)
    told = theirs.apply_chat_template(TURNS[:1], add_generation_prompt=True, enable_thinking=False)
    assert chat.render(ours, TURNS[:1], add_generation_prompt=True)[0] == told["input_ids"]
    assert as_text(ours, *chat.render(ours, TURNS)) == BOTH.format(end="<|im_end|>")


def test_a_token_that_swallows_white_space_swallows_it(scratch: Path, tmp_path: Path) -> None:
    swallowing = [AddedToken(f"<|{role}|>", rstrip=True, special=True) for role in ("user", "assistant", "end")]
    ours, theirs = both(scratch, tmp_path, "phi3_5", swallowing)
    expected = theirs.apply_chat_template(TURNS)["input_ids"]
    assert chat.render(ours, TURNS)[0] == expected
    assert "\n" not in ours.decode(expected).replace("\n\n", "")


@pytest.mark.parametrize("scheme", ["always", "first", "never", "prepend"])
def test_a_vocabulary_that_opens_texts_with_a_space_opens_them_as_in_transformers(tmp_path: Path, scheme: str) -> None:
    """SentencePiece vocabularies of four makes; the space belongs to the start of a text, not to each cut."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        "▁",
        "▁[INST]",
        "[INST]",
        "▁[/INST]",
        "▁My",
        "My",
        "▁card",
        "▁Freeze",
        "Freeze",
        "▁it",
    ]
    hf = tokenizers.Tokenizer(tokenizers.models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>"))
    if scheme == "prepend":
        hf.normalizer = tokenizers.normalizers.Sequence(
            [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
        )
        hf.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("▁[^▁]*"), "isolated")
    else:
        hf.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=scheme)
    hf.model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    hf.add_special_tokens(["<s>", "</s>"])
    hf.save(str(tmp_path / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_bytes((TEMPLATES / "llama2.jinja").read_bytes())
    ours, theirs = Tokenizer.load(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "My card"}, {"role": "assistant", "content": "Freeze it"}]
    ids, learn = chat.render(ours, turns)
    assert ids == theirs.apply_chat_template(turns)["input_ids"]
    assert ours.document("My card")[1:-1] == theirs("My card", add_special_tokens=False)["input_ids"]
    learned = [words[id_] for id_, is_learned in zip(ids, learn, strict=True) if is_learned]
    assert learned == ["▁Freeze", "▁it", "▁", "</s>"]


def test_a_base_without_a_template_can_learn_conversations(wordpiece: Path, tmp_path: Path) -> None:
    folder.copy(wordpiece, tmp_path)
    ours = Tokenizer.load(tmp_path)
    ids, learn = chat.render(ours, TURNS[:2])
    learned = [id_ for id_, is_learned in zip(ids, learn, strict=True) if is_learned]
    assert learned == [*ours.encode("Freeze it in the app."), ours.eos_id]
    assert ours.eos_id in ours.end_ids
    assert "[SEP]" in chat.learned_rule(ours)
