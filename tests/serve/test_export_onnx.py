"""An ONNX graph says in onnxruntime what the model says here, padded or not."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

from wyrmling.core.errors import UsageError
from wyrmling.flow.export import export
from wyrmling.model import folder
from wyrmling.model.attention import Segments
from wyrmling.serve import export_onnx
from wyrmling.serve.export_onnx import Padded


@pytest.mark.parametrize(("name", "head"), [("teller", "next"), ("sorter", "classes"), ("finder", "tags")])
def test_padded_texts_get_the_answers_of_texts_laid_end_to_end(kitchen, name: str, head: str) -> None:
    model = folder.load(kitchen.model(name, head))
    documents = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
    ids_BT, keep_BT = torch.zeros(3, 5, dtype=torch.int64), torch.zeros(3, 5, dtype=torch.int64)
    for row, document in enumerate(documents):
        ids_BT[row, : len(document)], keep_BT[row, : len(document)] = torch.tensor(document), 1
    with torch.no_grad():
        padded = Padded(model)(ids_BT, keep_BT)
        flat = model.logits(torch.tensor([token for document in documents for token in document]), Segments([5, 2, 3]))
    torch.testing.assert_close(padded if head == "classes" else padded[keep_BT.bool()], flat, rtol=0, atol=1e-5)


def test_a_classifier_is_exported_with_its_files_and_answers_in_onnxruntime(kitchen, tmp_path: Path) -> None:
    source = kitchen.model("sorter", "classes")
    document, text = export(source, to="onnx", out=tmp_path / "out")
    assert document["probes"]["max_abs"] < 1e-4 and "logits differ by up to" in text
    assert {"model.onnx", "tokenizer.json", "wyrmling.json"} <= {file.name for file in (tmp_path / "out").iterdir()}
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    # Sizes that the graph was not made with.
    ids_BT = torch.randint(0, 300, (3, 17))
    keep_BT = (torch.arange(17) < torch.tensor([[17], [4], [9]])).long()
    given = session.run(["logits"], {"input_ids": ids_BT.numpy(), "attention_mask": keep_BT.numpy()})[0]
    with torch.no_grad():
        expected = Padded(folder.load(source))(ids_BT, keep_BT)
    torch.testing.assert_close(torch.from_numpy(given), expected, rtol=0, atol=1e-4)


def test_quantisations_that_a_graph_does_not_know_are_refused(kitchen, tmp_path: Path) -> None:
    model = folder.load(kitchen.model("sorter", "classes"))
    with pytest.raises(UsageError, match="no ONNX graph with --quantize 4bit"):
        export_onnx.write(model, tmp_path / "model.onnx", "4bit")
