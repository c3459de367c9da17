"""Labels that contradict each other or are likely wrong, the file to review them in, and tags in one scheme."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from wyrmling.config import Labels
from wyrmling.core.errors import BadInput
from wyrmling.core.log import say, warn
from wyrmling.data.decode import decode
from wyrmling.data.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REVIEW_FILE = "label_review.csv"
COLUMNS = ("row_id", "origin", "finding", "label", "suggested", "confidence", "decision", "text")
# A spreadsheet would read an id of digits, or one like 12e4567, as a number.
ID_PREFIX = "row-"
FOLDS = 5
# assumption: a label of fewer rows can't be learned from four fifths of them.
MIN_ROWS = 2 * FOLDS

Texts = Callable[[Sequence[Row]], Mapping[str, str]]
Problem = Literal["conflict", "near_conflict", "likely_wrong"]


class Finding(NamedTuple):
    """A label to look at again.

    confidence  probability of the row's own label by a classifier that never saw the row; None when not computed
    """

    row: Row
    problem: Problem
    suggested: str | None
    confidence: float | None


def find_problems(rows: Sequence[Row], settings: Labels, texts: Texts) -> list[Finding]:
    """Labels to look at again, the least believable first; rows of official splits and reviewed rows are left out.

    texts   row id -> text, of the rows it is given
    Rows of nearly the same text with different labels are named "near_label_conflict" in the ledger.
    """
    # Rows with several labels are not looked at: near ones may well have some of them.
    labelled = [row for row in rows if row.alive and row.kind == "labelled" and not row.held_out and row.labels is None]
    near = _near_conflicts(labelled)
    guesses = _guess(labelled, texts) if settings.check else {}
    findings = []
    for row in labelled:
        suggested, own, wrong = guesses.get(row.row_id, (None, None, False))
        problem: Problem | None = "likely_wrong" if wrong else None
        if "label_conflict" in row.rules:
            problem = "conflict"
        elif row.row_id in near:
            row.change("near_label_conflict")
            problem = "near_conflict"
        if problem is not None and not row.reviewed:
            findings.append(Finding(row, problem, suggested, own))
    return sorted(findings, key=lambda one: (1.0 if one.confidence is None else one.confidence, one.row.row_id))


def _near_conflicts(rows: Sequence[Row]) -> set[str]:
    """Ids of the rows whose cluster of near-duplicates has more than one label, though the texts are not equal."""
    clusters: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.cluster is not None and "label_conflict" not in row.rules:
            clusters[row.cluster].append(row)
    split = [group for group in clusters.values() if len({row.label for row in group}) > 1]
    return {row.row_id for group in split for row in group}


Guess = tuple[str | None, float | None, bool]


def _guess(rows: Sequence[Row], texts: Texts) -> dict[str, Guess]:
    """For each row the most likely other label, the probability of its own, and whether that one is likely wrong.

    Confident learning (Northcutt et al. 2021, arXiv 1911.00068): out-of-fold probabilities, and for each label the mean
    probability of its own rows as the bar that another label must clear. The scores are of multinomial naive Bayes on
    TF-IDF of words and pairs of words: of five classifiers it found the most of 5 % flipped labels per second.
    """
    import numpy as np

    counts = Counter(row.label for row in rows)
    rows = sorted((row for row in rows if counts[row.label] >= MIN_ROWS), key=lambda row: (row.label, row.key))
    names = sorted({str(row.label) for row in rows})
    if len(names) < 2:
        return {}
    own = np.array([names.index(str(row.label)) for row in rows])
    of_row = texts(rows)
    scores = _out_of_fold([of_row[row.row_id] for row in rows], own, len(names))
    at = np.arange(len(rows))
    bars = np.array([scores[own == label, label].mean() for label in range(len(names))])
    confident = np.where(scores >= bars, scores, 0.0)
    confident[at, own] = 0.0
    wrong = (confident.max(1) > 0) & (scores[at, own] < scores.max(1))
    others = scores.copy()
    others[at, own] = -1.0
    suggested = others.argmax(1)
    return {
        row.row_id: (names[int(other)], round(float(score), 4), bool(flag))
        for row, other, score, flag in zip(rows, suggested, scores[at, own], wrong, strict=True)
    }


def _out_of_fold(texts: Sequence[str], own: NDArray[np.int64], labels: int) -> NDArray[np.float64]:
    """Probabilities [texts, labels] by classifiers that did not see the text. Texts come sorted by label."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import MultinomialNB

    # One-letter words count too: they are all that some texts have.
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]", dtype=np.float32)
    features = words.fit_transform(texts)
    folds = np.arange(len(texts)) % FOLDS
    scores = np.zeros((len(texts), labels))
    for fold in range(FOLDS):
        model = MultinomialNB(alpha=0.1).fit(features[folds != fold], own[folds != fold])
        scores[folds == fold] = model.predict_proba(features[folds == fold])
    return scores


def write_review(folder: Path, findings: Sequence[Finding], texts: Texts) -> None:
    """Write label_review.csv: one line per finding, with an empty column `decision` to fill in."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    of_row = texts([finding.row for finding in findings])
    for row, problem, suggested, confidence in findings:
        shown = "" if confidence is None else f"{confidence:.4f}"
        text = of_row[row.row_id]
        writer.writerow([ID_PREFIX + row.row_id, row.origin, problem, row.label, suggested or "", shown, "", text])
    # The byte order mark tells spreadsheets that this is UTF-8.
    (folder / REVIEW_FILE).write_text(buffer.getvalue(), encoding="utf-8-sig", newline="")


def apply_review(rows: Sequence[Row], path: Path) -> None:
    """Apply the decisions of an edited review file to rows as they were read, in place.

    A decision is "keep" (not listed again), "drop", or the right label; an empty one changes nothing.
    Raises   BadInput for a missing file or column, an unknown label, or two decisions on one row
    """
    decisions = _read_decisions(path)
    known = {row.label for row in rows if row.kind == "labelled" and row.label is not None}
    by_id = {row.row_id: row for row in rows if row.kind == "labelled" and row.verdict != "error" and not row.held_out}
    gone = 0
    for row_id, (decision, line) in decisions.items():
        row = by_id.get(row_id)
        if row is None:
            gone += 1
        elif decision == "drop":
            row.drop("review")
        elif decision == "keep" or decision == row.label:
            row.reviewed = True
        elif decision in known:
            row.label, row.reviewed = decision, True
            row.change("relabelled")
        else:
            raise _unknown_label(decision, known, f"{path}:{line}")
    if gone:
        warn(f"{path.name}: {gone} of {len(decisions)} decisions are on rows that are no longer read; they do nothing")


def _read_decisions(path: Path) -> dict[str, tuple[str, int]]:
    """Row id -> decision and line number, of the lines that have a decision."""
    if not path.is_file():
        raise BadInput(
            f"{path} does not exist",
            where="data.labels.review",
            fix=f"copy {REVIEW_FILE} from the data artifact and fill in the column decision, or leave the setting out",
        )
    text = decode(path.read_bytes()).text
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    if missing := {"row_id", "decision"} - set(reader.fieldnames or ()):
        raise BadInput(f"there is no column {min(missing)!r}", where=path, fix=f"the columns are {', '.join(COLUMNS)}")
    decisions: dict[str, tuple[str, int]] = {}
    for cells in reader:
        row_id = (cells["row_id"] or "").strip().removeprefix(ID_PREFIX)
        decision = (cells["decision"] or "").strip()
        if not decision:
            continue
        if decisions.get(row_id, (decision,))[0] != decision:
            raise BadInput(
                f"two decisions on {ID_PREFIX}{row_id}", where=f"{path}:{reader.line_num}", fix="leave one of them"
            )
        decisions[row_id] = (decision, reader.line_num)
    return decisions


def _unknown_label(decision: str, known: set[str], where: str) -> BadInput:
    near = difflib.get_close_matches(decision, sorted(known), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return BadInput(
        f"the decision {decision!r} is no label of this project",
        where=where,
        fix=f"{hint}Write keep, drop or one of its {len(known)} labels; a new label needs a row in the source first",
    )


BIO = re.compile(r"[BI]-.+")


def settle_tags(rows: Sequence[Row]) -> None:
    """Bring each source's tags into the BIO scheme, in place; IOB1, BIOES and BILOU were converted when read.

    Types without B- and I- beside O are read as IO: neighbours of one type are one entity. In a source that has both
    forms, rows with a tag of neither are dropped by the rule "bad_tags". Tags without O, such as parts of speech, stay.
    """
    for name in dict.fromkeys(row.source for row in rows if row.kind == "tagged"):
        tagged = [row for row in rows if row.source == name and row.kind == "tagged" and row.alive]
        tags = {tag for row in tagged for tag in row.tags}
        plain = {tag for tag in tags if tag != "O" and BIO.fullmatch(tag) is None}
        if not plain or "O" not in tags:
            continue
        if plain == tags - {"O"}:
            say(f"data.sources.{name}: tags without B- and I- are read as IO, neighbours of one type as one entity")
            for row in tagged:
                _from_io(row)
        else:
            _drop_bad_tags(name, tagged, plain)


def _from_io(row: Row) -> None:
    before = ["O", *row.tags]
    tags = [
        "O" if tag == "O" else f"I-{tag}" if tag == last else f"B-{tag}"
        for last, tag in zip(before, row.tags, strict=False)
    ]
    if tags != row.tags:
        row.tags = tags
        row.change("bio")


def _drop_bad_tags(name: str, rows: Sequence[Row], plain: set[str]) -> None:
    bad = [(row, tag) for row in rows if (tag := next((tag for tag in row.tags if tag in plain), None)) is not None]
    for row, tag in bad:
        row.drop("bad_tags", value=tag, threshold="O, B-type or I-type")
    row, tag = bad[0]
    warn(f"data.sources.{name}: {len(bad)} rows have a tag that is neither O nor B- nor I-: {tag!r} at {row.origin}")
