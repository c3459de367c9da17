"""The token store: what goes in comes out, row by row, and a store that does not belong is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from tokenizer.samples import ODD_TEXTS, example
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.core.progress import Bar
from wyrmling.tokenizer import bpe, bulk, chat, folder
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import NO_TAG, ROWS_SCHEMA, TokenStore, read_shards
from wyrmling.tokenizer.writer import StoreWriter

LABELS, TAGS = ["card", "cash"], ["O", "B-person", "I-person"]
SILENT = Bar("", None, None)

WORDS = ["Ada", "Lovelace", "naïve", "met", "🙂", "<|endoftext|>", "'s", "."]
ROWS = [
    *(example(f"d{i}", "document", text=text) for i, text in enumerate(ODD_TEXTS) if text),
    example("l0", "labelled", text="I lost my card", label="card"),
    example("l1", "labelled", text="The machine kept my cash!", label="cash"),
    example("t0", "tagged", text=" ".join(WORDS), words=WORDS, tags=["B-person", "I-person", *["O"] * 6]),
    example("t1", "tagged", text="Hi", words=["Hi"], tags=["O"]),
    example(
        "c0",
        "conversation",
        messages=[{"role": "user", "content": "hi <|im_end|>"}, {"role": "assistant", "content": "Good day 🙂"}],
    ),
    example("v0", "document", "val", text="held out"),
]


def write(path: Path, tokenizer_folder: Path, rows: list[dict[str, Any]], per_shard: int = 4) -> Path:
    """A store of `rows` beside a copy of the tokenizer, a few rows to a shard."""
    path.mkdir(exist_ok=True)
    folder.copy(tokenizer_folder, path)
    tokenizer = Tokenizer.load(path)
    writer = StoreWriter(path / "store", tokenizer, bulk.encoder(path, tokenizer, [], []), labels=LABELS, tags=TAGS)
    for start in range(0, len(rows), per_shard):
        writer.add(rows[start : start + per_shard], SILENT)
    return path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, scratch: Path) -> Path:
    return write(tmp_path_factory.mktemp("stored") / "artifact", scratch, ROWS)


@pytest.fixture(scope="module")
def store(stored: Path) -> TokenStore:
    return TokenStore.open(stored, "train")


def index(store: TokenStore, row_id: str) -> int:
    return store.rows["row_id"].tolist().index(row_id)


def test_documents_are_opened_learned_and_ended(store: TokenStore, tokenizer: Tokenizer) -> None:
    for row in ROWS:
        if row["kind"] in ("document", "labelled") and row["split"] == "train":
            i = index(store, row["row_id"])
            assert store.tokens(i).tolist() == tokenizer.document(row["text"])
            assert store.learn(i).tolist() == [False, *[True] * (len(store.tokens(i)) - 1)]
            assert store.rows["n_bytes"][i] == len(row["text"].encode())
            assert set(store.tags(i)) == {NO_TAG}


def test_tags_stand_on_the_first_piece_of_their_word(store: TokenStore, tokenizer: Tokenizer) -> None:
    i = index(store, "t0")
    ids, firsts = tokenizer.encode_words(WORDS)
    assert store.tokens(i).tolist() == [tokenizer.bos_id, *ids, tokenizer.eos_id]
    tags = store.tags(i)
    assert np.flatnonzero(tags != NO_TAG).tolist() == [first + 1 for first in firsts]
    assert [store.tag_names[tag] for tag in tags[tags != NO_TAG]] == ["B-person", "I-person", *["O"] * 6]
    assert store.rows["n_bytes"][i] == len(" ".join(WORDS).encode())


def test_of_a_conversation_the_answers_are_learned(store: TokenStore, tokenizer: Tokenizer) -> None:
    i = index(store, "c0")
    ids, learn = chat.render(tokenizer, ROWS[-2]["messages"])
    assert (store.tokens(i).tolist(), store.learn(i).tolist()) == (ids, learn)
    assert tokenizer.decode(store.tokens(i)[store.learn(i)]) == "Good day 🙂"
    assert store.rows["n_bytes"][i] == len("Good day 🙂".encode())


def test_rows_keep_their_order_label_and_origin(stored: Path, store: TokenStore) -> None:
    train = [row for row in ROWS if row["split"] == "train"]
    assert len(store) == len(train)
    for column in ("row_id", "source", "origin", "kind"):
        assert store.rows[column].tolist() == [row[column] for row in train]
    assert [store.labels[label] if label >= 0 else None for label in store.rows["label"]] == [
        row["label"] for row in train
    ]
    assert store.n_tokens == store.rows["length"].sum()
    assert store.n_bytes == store.rows["n_bytes"].sum()
    assert set(store.rows) == {*ROWS_SCHEMA.names, "start", "length"}
    with pytest.raises(KeyError):
        store.rows["text"]
    for beyond in (-1, len(store)):
        with pytest.raises(IndexError):
            store.tokens(beyond)


def test_a_split_without_rows_is_empty_and_one_without_tags_has_no_tag_file(stored: Path) -> None:
    assert len(TokenStore.open(stored, "test")) == 0
    val = TokenStore.open(stored, "val")
    assert set(val.tags(0)) == {NO_TAG}
    assert not list((stored / "store").glob("val-*.tags"))
    assert len(list((stored / "store").glob("train-*.tags"))) == 1


@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=6), per_shard=st.integers(1, 4))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_the_store(
    tmp_path: Path, scratch: Path, tokenizer: Tokenizer, texts: list[str], per_shard: int
) -> None:
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    rows = [example(str(i), "document", text=text) for i, text in enumerate(texts)]
    store = TokenStore.open(write(tmp_path / "a", scratch, rows, per_shard), "train")
    for i, text in enumerate(texts):
        said = tokenizer.decode(store.tokens(i))
        assert said == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert store.rows["n_bytes"][i] == len(said.encode())


def test_the_first_token_is_not_learned_even_without_an_opening_token(tmp_path: Path, scratch: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(scratch, base)
    (base / "tokenizer_config.json").write_text('{"bos_token": null, "eos_token": "<|endoftext|>"}', encoding="utf-8")
    rows = [example("0", "document", text="my card"), example("1", "tagged", text="Hi", words=["Hi"], tags=["O"])]
    store = TokenStore.open(write(tmp_path / "a", base, rows), "train")
    tokenizer = Tokenizer.load(base)
    for i in range(2):
        assert not store.learn(i)[0]
        learned = b"".join(tokenizer.token_bytes(id_) for id_ in store.tokens(i)[1:])
        assert store.rows["n_bytes"][i] == len(learned)


def test_a_word_that_the_vocabulary_drops_keeps_its_tag(tmp_path: Path, wordpiece: Path) -> None:
    words = ["card", "\u200b", "lost"]
    rows = [example("0", "tagged", text=" ".join(words), words=words, tags=["O", "B-person", "O"])]
    store = TokenStore.open(write(tmp_path / "a", wordpiece, rows), "train")
    tokenizer = Tokenizer.load(wordpiece)
    ids, firsts = tokenizer.encode_words(words)
    assert store.tokens(0).tolist() == [tokenizer.bos_id, *ids, tokenizer.eos_id]
    assert np.flatnonzero(store.tags(0) == 1).tolist() == [firsts[1] + 1]


def test_a_large_vocabulary_is_stored_in_32_bits(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    hf = tokenizers.Tokenizer(
        models.WordLevel({f"w{i}": i for i in range(70_000)} | {"[UNK]": 70_000}, unk_token="[UNK]")
    )
    hf.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    hf.save(str(base / "tokenizer.json"))
    (base / "tokenizer_config.json").write_text('{"eos_token": "w69999", "unk_token": "[UNK]"}', encoding="utf-8")
    path = write(tmp_path / "a", base, [example("0", "document", text="w1 w66000 w?")])
    assert TokenStore.open(path, "train").tokens(0).tolist() == [1, 66_000, 70_000, 69_999]
    assert json.loads((path / "store/store.json").read_text(encoding="utf-8"))["dtype"] == "uint32"


def test_a_store_of_another_tokenizer_is_refused(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="made by another tokenizer"):
        TokenStore.open(stored, "train", tokenizer_sha256="0" * 64)
    shutil.copytree(stored, tmp_path / "a")
    with (tmp_path / "a/tokenizer.json").open("a", encoding="utf-8") as handle:
        handle.write("\n")
    with pytest.raises(CorruptArtifact, match="made by another tokenizer"):
        TokenStore.open(tmp_path / "a", "train")


def test_a_cut_or_missing_file_is_named(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored, tmp_path / "a")
    with (tmp_path / "a/store/train-00001.learn").open("ab") as handle:
        handle.truncate(5)
    with pytest.raises(CorruptArtifact, match=r"train-00001\.learn has 5 bytes instead of"):
        TokenStore.open(tmp_path / "a", "train")
    (tmp_path / "a/store/train-00000.tokens").unlink()
    with pytest.raises(CorruptArtifact, match=r"train-00000\.tokens is missing"):
        TokenStore.open(tmp_path / "a", "train")
    with pytest.raises(CorruptArtifact, match="no readable token store"):
        TokenStore.open(tmp_path, "train")
    with pytest.raises(CorruptArtifact, match="no split 'dev'"):
        TokenStore.open(stored, "dev")


def test_a_changed_byte_is_found_when_asked_for(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored, tmp_path / "a")
    path = tmp_path / "a/store/train-00001.tokens"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    TokenStore.open(tmp_path / "a", "train")
    TokenStore.open(tmp_path / "a", "val", verify=True)
    with pytest.raises(CorruptArtifact, match=r"train-00001\.tokens has other bytes than were written"):
        TokenStore.open(tmp_path / "a", "train", verify=True)


def test_a_store_of_an_earlier_format_is_refused(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored, tmp_path / "a")
    path = tmp_path / "a/store/store.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"format": 4', '"format": 1'), encoding="utf-8")
    with pytest.raises(CorruptArtifact, match="format 1, not 4"):
        TokenStore.open(tmp_path / "a", "train")


def append(path: Path, rows: list[dict[str, Any]], labels: list[str]) -> None:
    tokenizer = Tokenizer.load(path)
    encoder = bulk.encoder(path, tokenizer, [], [])
    StoreWriter(path / "store", tokenizer, encoder, labels=labels, tags=TAGS).add(rows, SILENT)


def test_new_rows_are_new_shards_and_old_files_stay(stored: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    shutil.copytree(stored, tmp_path / "a")
    before = {path: path.read_bytes() for path in (tmp_path / "a/store").glob("*-*")}
    old = TokenStore.open(tmp_path / "a", "train")
    new_rows = [
        example("n0", "labelled", text="a coin", label="coin"),
        example("n1", "labelled", text="card", label="card"),
    ]
    append(tmp_path / "a", new_rows, ["card", "coin"])
    store = TokenStore.open(tmp_path / "a", "train", verify=True)
    assert len(store) == len(old) + 2
    assert store.tokens(len(old)).tolist() == tokenizer.document("a coin")
    # Labels keep their numbers, whatever the order of the new list.
    assert store.labels == [*LABELS, "coin"]
    assert [store.labels[label] for label in store.rows["label"][-2:]] == ["coin", "card"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_shard_that_was_not_finished_is_not_there(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored, tmp_path / "a")
    path = tmp_path / "a/store/shards.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    assert len(read_shards(tmp_path / "a/store")) == content.count(b"\n") - 1
    assert len(TokenStore.open(tmp_path / "a", "train")) < len(TokenStore.open(stored, "train"))
    last = len(ROWS) // 4 * 4
    append(tmp_path / "a", ROWS[last:], LABELS)
    assert path.read_bytes() == content


def test_a_store_is_not_added_to_with_another_tokenizer(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored, tmp_path / "a")
    with (tmp_path / "a/tokenizer.json").open("a", encoding="utf-8") as handle:
        handle.write("\n")
    with pytest.raises(CorruptArtifact, match="made by another tokenizer"):
        append(tmp_path / "a", ROWS, LABELS)


def test_a_label_that_the_data_artifact_does_not_list_is_an_error(tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(CorruptArtifact, match="'coins' is not among the labels"):
        write(tmp_path / "a", scratch, [example("0", "labelled", text="x", label="coins")])


def test_a_conversation_the_template_refuses_is_named_by_row(tmp_path: Path, scratch: Path) -> None:
    rows = [example("7", "conversation", messages=[{"role": "user", "content": None}])]
    with pytest.raises(BadInput, match=r"data/conversation\.csv:7"):
        write(tmp_path / "a", scratch, rows)


def test_bulk_encoding_gives_the_ids_of_one_by_one(scratch: Path, tokenizer: Tokenizer, corpus: list[str]) -> None:
    texts = [*ODD_TEXTS, *corpus[:200]]
    encoder = bulk.encoder(scratch, tokenizer, texts, [str(i) for i in range(len(texts))])
    assert encoder.library == "fastokens"
    flat = encoder.encode(texts)
    assert [flat.ids[a:b].tolist() for a, b in zip(flat.offsets, flat.offsets[1:], strict=False)] == [
        tokenizer.encode(text) for text in texts
    ]


def test_a_difference_between_the_two_libraries_is_noticed(
    tmp_path: Path, tokenizer: Tokenizer, corpus: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # fastokens reads a smaller vocabulary than the tokenizer it is compared with has: it needs more tokens for a word.
    folder.write(tmp_path, bpe.train(corpus, 300), ends=False)
    encoder = bulk.encoder(tmp_path, tokenizer, ["x", "identity"], ["r0", "r1"])
    assert encoder.library == "tokenizers"
    assert "other ids than tokenizers for row r1" in capsys.readouterr().err
    assert encoder.encode(["identity"]).ids.tolist() == tokenizer.encode("identity")


def test_rows_parquet_is_plain_for_other_readers(stored: Path, store: TokenStore) -> None:
    parts = [pa.parquet.read_table(path) for path in sorted((stored / "store").glob("train-*.rows.parquet"))]
    table = pa.concat_tables(parts)
    assert table.schema == ROWS_SCHEMA
    assert table.column("row_id").to_pylist() == store.rows["row_id"].tolist()
