"""Trained tokenizers and projects that the tests of the tokenizer stage share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import settings
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tokenizer.samples import messages_of_customers, save
from wyrmling import config
from wyrmling.config import Project
from wyrmling.tokenizer import bpe, folder
from wyrmling.tokenizer.tokenizer import Tokenizer

# How long an example takes depends on what else the machine does; nothing here is a test of speed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return messages_of_customers(2000)


@pytest.fixture(scope="session")
def trained(corpus: list[str]) -> bpe.Vocabulary:
    return bpe.train(corpus, 1024)


@pytest.fixture(scope="session")
def scratch(trained: bpe.Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer folder as the stage writes it for a decoder."""
    path = tmp_path_factory.mktemp("scratch")
    folder.write(path, trained, ends=False)
    (path / "config.json").write_text("{}", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer(scratch: Path) -> Tokenizer:
    return Tokenizer.load(scratch)


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory: pytest.TempPathFactory, corpus: list[str]) -> Path:
    """As BERT's: no bos or eos but [CLS] and [SEP], cut at 16 tokens and padded by its own file."""
    hf = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    hf.normalizer = normalizers.BertNormalizer(lowercase=True)
    hf.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    hf.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    hf.train_from_iterator(
        corpus, trainers.WordPieceTrainer(vocab_size=800, special_tokens=special, show_progress=False)
    )
    hf.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    hf.enable_truncation(16)
    hf.enable_padding(length=16)
    mask = {"__type": "AddedToken", "content": "[MASK]", "lstrip": True}
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": mask, "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return save(tmp_path_factory.mktemp("wordpiece"), hf, names, {"pad_token_id": 0})


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Project]:
    """A project in a new folder: `project(task, **tokenizer_and_model_settings)`."""

    def make(task: str = "complete", root: str = "project", *overrides: str) -> Project:
        path = tmp_path / root
        path.mkdir(exist_ok=True)
        (path / "wyrmling.toml").write_text(
            f'name = "desk"\n[objective]\ntask = "{task}"\n[data.sources.a]\npath = "a.txt"\n', encoding="utf-8"
        )
        return config.load(path, overrides)

    return make
