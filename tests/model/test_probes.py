"""A model folder proves that it still answers as it did when it was trained."""

from __future__ import annotations

import json

import pytest
import torch

from wyrmling.core.errors import BadInput, CorruptArtifact, GateRefused
from wyrmling.model import folder, probes

TEXTS = ["a short one", "another, a little longer than the first", "x" * 200]


class Letters:
    """The smallest tokenizer there is: one id per character."""

    shift = 0

    def prompt(self, text: str) -> list[int]:
        return [100, *((ord(c) + self.shift) % 100 for c in text)]

    def document(self, text: str) -> list[int]:
        return [*self.prompt(text), 100]


@pytest.fixture(params=[("qwen3", "next"), ("modernbert", "masked"), ("modernbert", "classes"), ("modernbert", "tags")])
def recorded(request, tiny, tmp_path):
    model = tiny.model(*request.param)
    folder.save(model, tmp_path, None, folder.About("t", request.param[1], 64, "o"))
    probes.record(model, Letters(), TEXTS, tmp_path)
    return tmp_path


def test_the_folder_answers_as_recorded(recorded):
    difference = probes.replay(recorded, tokenizer=Letters())
    assert difference.max_abs < 1e-6
    assert (difference.greedy_equal, difference.probes) == (1, 3)


def test_a_changed_weight_is_refused_with_the_numbers(recorded):
    model = folder.load(recorded)
    with torch.no_grad():
        next(iter(model.body.blocks.parameters()))[0] += 0.5
    with pytest.raises(GateRefused, match=r"by up to [0-9.e+-]+, .* of 3 probes \(allowed 0\.001 "):
        probes.replay(recorded, model)


def test_one_flipped_bit_of_the_file_is_refused(recorded):
    file = recorded / folder.WEIGHTS
    content = bytearray(file.read_bytes())
    # The sign bit of the last number of the last tensor, which is a norm or a matrix of the stack.
    content[-1] ^= 0x80
    file.write_bytes(content)
    with pytest.raises(GateRefused):
        probes.replay(recorded)


def test_another_tokenizer_is_refused(recorded):
    other = Letters()
    other.shift = 1
    with pytest.raises(GateRefused, match="other ids for probe 0"):
        probes.replay(recorded, tokenizer=other)


def test_missing_or_broken_probes_are_corrupt(recorded):
    stored = json.loads((recorded / probes.PROBES).read_text())
    assert [probe["text"] for probe in stored["probes"]] == TEXTS
    for content in ("{", '{"probes": []}', '{"probes": [{"ids": [1]}]}'):
        (recorded / probes.PROBES).write_text(content)
        with pytest.raises(CorruptArtifact, match=r"probes\.json"):
            probes.replay(recorded)
    (recorded / probes.PROBES).unlink()
    with pytest.raises(CorruptArtifact, match=r"probes\.json"):
        probes.replay(recorded)


def test_recording_nothing_is_refused(tiny, tmp_path):
    with pytest.raises(BadInput, match="at least one probe"):
        probes.record(tiny.model(), Letters(), [], tmp_path)
