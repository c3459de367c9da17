"""Models that sort texts without having been trained to: by the rows they are shown.

`Prompted` lets a decoder read rows with their labels and asks how likely each label's name is after the text.
`Compared` lets an encoder look how near the text is to the rows of each label. Both are models with the head `classes`,
so what scores, serves and checks trained classifiers does the same with them.

Letters: N tokens, S documents, C labels, D width, M stored rows, K rows of a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wyrmling.core.errors import BadInput
from wyrmling.model import few_shot, retrieval
from wyrmling.model.attention import Segments
from wyrmling.model.embed import embed
from wyrmling.model.few_shot import FewShot
from wyrmling.model.generate import continuations
from wyrmling.model.heads import HeadName, Model, Output
from wyrmling.model.tensor_files import read_tensors, write_tensors
from wyrmling.model.transformer import Transformer

# With more labels only those of the shown rows are asked for; with no rows all are.
MOST_ASKED = 16
# Logits below the least likely label that was asked for, for those that were not.
UNASKED = 5.0
# Cosines lie close together: this makes differences of 0.05 matter. The temperature, fitted later, does the rest.
SHARPNESS = 20.0
# Texts compared with all rows at once, which bounds the memory that takes.
AT_ONCE = 128


class Shown(Model):
    """What both have in common: the base model inside, and labels as outputs."""

    def __init__(self, inner: Model, about: FewShot) -> None:
        nn.Module.__init__(self)
        self.inner, self.about = inner, about
        self.config = replace(inner.config, context=about.context)
        self.packed_output = None

    @property
    def head_name(self) -> HeadName:
        return "classes"

    @property
    def n_out(self) -> int:
        return len(self.about.labels)

    @property
    def body(self) -> Transformer:  # type: ignore[override]
        """The base model's, whose weights are all there are."""
        return self.inner.body

    @property
    def output(self) -> Output:
        raise BadInput("a few-shot model has no output matrix", fix="use its logits")

    def features(self, tokens_N: Tensor, segments: Segments, rows_R: Tensor | None = None) -> Tensor:
        """The logits themselves: there is no matrix after them."""
        return self.logits(tokens_N, segments, rows_R)

    def project(self, features_RD: Tensor) -> Tensor:
        return features_RD

    @torch.no_grad()
    def logits(self, tokens_N: Tensor, segments: Segments, rows_R: Tensor | None = None) -> Tensor:
        """(R, C) per document: calibrated, and divided by the temperature."""
        documents = [ids.tolist() for ids in torch.split(tokens_N, list(segments.lengths))]
        wanted = documents if rows_R is None else [documents[i] for i in rows_R.tolist()]
        raw_RC = self.raw(wanted)
        if self.about.calibration is not None:
            raw_RC = raw_RC - torch.tensor(self.about.calibration)
        return (raw_RC / self.about.temperature).to(tokens_N.device)

    forward = logits

    def raw(self, documents: Sequence[Sequence[int]]) -> Tensor:
        """(S, C) float32 on the CPU, before calibration."""
        raise NotImplementedError


class Prompted(Shown):
    """A decoder that reads rows with their labels before each text.

    vectors_MD   the decoder's own vectors of the rows, when the nearest are chosen by them
    """

    def __init__(self, inner: Model, about: FewShot, vectors_MD: Tensor | None = None) -> None:
        super().__init__(inner, about)
        self.register_buffer("vectors_MD", vectors_MD, persistent=False)
        self._label_M = np.array([row.label for row in about.rows], dtype=np.int64)
        self._bm25 = retrieval.Bm25([row.ids for row in about.rows]) if about.select == "bm25" else None
        self._longest_name = max(len(ids) for ids in about.names)

    def raw(self, documents: Sequence[Sequence[int]]) -> Tensor:
        """The log-probability of each label's name after the text, per token of the name."""
        return torch.stack([self._of(document) for document in documents])

    def prompt(self, document: Sequence[int]) -> tuple[list[int], list[int]]:
        """The ids of the prompt for a text, and the rows in it; those least alike are left out when it is too long."""
        about, text = self.about, [id for id in document if id not in self.about.around]
        room = self.inner.config.context - self._longest_name - len(about.begin) - len(text) - len(about.ask)
        kept: list[int] = []
        for row in self._chosen(text):
            size = len(self._written(row))
            if size > room:
                break
            kept.append(row)
            room -= size
        order = kept[::-1] if about.nearest_last else kept
        shown = [id for row in order for id in self._written(row)]
        return [*about.begin, *shown, *text, *about.ask], kept

    def _written(self, row: int) -> list[int]:
        one = self.about.rows[row]
        return [*one.ids, *self.about.ask, *self.about.names[one.label], *self.about.end]

    def _chosen(self, text: list[int]) -> list[int]:
        """The rows to show, the most important first."""
        about = self.about
        if about.select in ("balanced", "random") or not about.rows:
            return list(range(min(about.examples, len(about.rows))))
        rows: list[int] = retrieval.best_by_label(self._likeness(text), self._label_M, about.examples).tolist()
        return rows

    def _likeness(self, text: list[int]) -> retrieval.Floats:
        if self._bm25 is not None:
            return self._bm25.scores(text)
        assert isinstance(self.vectors_MD, Tensor)
        vector_D = embed(self.inner, [text or self.about.around])[0]
        return (self.vectors_MD.cpu() @ vector_D).double().numpy()

    def _of(self, document: Sequence[int]) -> Tensor:
        prompt, shown = self.prompt(document)
        seen = sorted({self.about.rows[row].label for row in shown})
        asked = seen if seen and self.n_out > MOST_ASKED else list(range(self.n_out))
        names = [self.about.names[label] for label in asked]
        nats = torch.tensor(continuations(self.inner, prompt, names))
        each = nats / torch.tensor([len(ids) for ids in names])
        logits_C = torch.full((self.n_out,), float(each.min()) - UNASKED)
        logits_C[asked] = each
        return logits_C


class Compared(Shown):
    """An encoder that looks how near a text is to the rows of each label, or to the labels' names.

    vectors_MD   vectors of the stored rows, of length 1
    """

    def __init__(self, inner: Model, about: FewShot, vectors_MD: Tensor) -> None:
        super().__init__(inner, about)
        self.register_buffer("vectors_MD", vectors_MD, persistent=False)
        of_label = [[i for i, row in enumerate(about.rows) if row.label == c] for c in range(len(about.labels))]
        most = max(len(rows) for rows in of_label)
        # Rows of each label side by side; -1 where a label has fewer.
        places = torch.tensor([rows + [-1] * (most - len(rows)) for rows in of_label])
        self.register_buffer("places_CK", places, persistent=False)
        self._count_C = torch.tensor([max(1, min(about.examples, len(rows))) for rows in of_label])

    def raw(self, documents: Sequence[Sequence[int]]) -> Tensor:
        """The mean cosine to the nearest rows of each label; -1 for a label without rows."""
        vectors_SD = embed(self.inner, documents)
        return SHARPNESS * torch.cat([self._nearness(part) for part in torch.split(vectors_SD, AT_ONCE)])

    def _nearness(self, vectors_SD: Tensor) -> Tensor:
        assert isinstance(self.vectors_MD, Tensor) and isinstance(self.places_CK, Tensor)
        cosine_SM = F.pad(vectors_SD @ self.vectors_MD.float().cpu().T, (0, 1), value=-1.0)
        near_SCK = cosine_SM[:, self.places_CK.cpu()].topk(int(self._count_C.max()), dim=-1).values
        counted_CK = torch.arange(near_SCK.shape[-1]) < self._count_C[:, None]
        return near_SCK.masked_fill(~counted_CK, 0.0).sum(-1) / self._count_C


def shown(inner: Model, about: FewShot, folder: Path) -> Model:
    """The model of a folder with few_shot.json. For answers that is the base: what it is shown is in its messages."""
    if about.kind == "turns":
        return inner
    has_vectors = (folder / few_shot.VECTORS).is_file()
    vectors_MD = read_tensors(folder / few_shot.VECTORS)["vectors"] if has_vectors else None
    if about.kind == "prompt":
        return Prompted(inner, about, vectors_MD)
    if vectors_MD is None or len(vectors_MD) != len(about.rows):
        raise BadInput(
            f"{few_shot.VECTORS} does not hold a vector for each of the {len(about.rows)} rows",
            where=folder,
            fix="make the few-shot model again",
        )
    return Compared(inner, about, vectors_MD)


def write_vectors(folder: Path, vectors_MD: Tensor) -> None:
    """Keep the vectors of the rows, in their order."""
    write_tensors(folder / few_shot.VECTORS, {"vectors": vectors_MD.contiguous()})
