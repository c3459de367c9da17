"""`[data]`: the origins of rows, and how they are cleaned, de-duplicated, labelled and split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from wyrmling.config.section import Section, Strings

Format = Literal[
    "txt", "md", "rst", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "html", "pdf", "conll", "docx", "pptx",
    "odt", "rtf", "epub", "xlsx", "xls", "ods", "eml", "mbox", "msg", "ipynb", "xml", "code",
]  # fmt: skip


# What test rows can always be sliced by.
SLICED_BY = ("length", "language", "source", "kind", "near_train", "label")


class Source(Section):
    """One origin of rows. Give `path`, or `url` with `query`."""

    path: str | None = None
    """A file, a folder or a glob, relative to the project folder."""
    url: str | None = None
    """A database as a SQLAlchemy URL; sqlite paths are relative to the project folder."""
    query: str | None = None
    """The SQL query whose rows are read."""
    format: Format | None = None
    """The format of the files; of those in them for archives. None: by content and suffix."""
    text: str | None = None
    """The column that holds the text."""
    label: str | None = None
    """The column that holds the label; a list there, or text with a label_separator, is several labels."""
    label_separator: str | None = Field(default=None, min_length=1)
    """The string between the labels of one row, such as "|". None: a text is one label."""
    prompt: str | None = None
    """The column that holds the prompt or question."""
    response: str | None = None
    """The column that holds the response or answer."""
    messages: str | None = None
    """The column that holds a list of {role, content} messages."""
    chosen: str | None = None
    """The column that holds the better of two answers, as text or as a conversation that ends with it."""
    rejected: str | None = None
    """The column that holds the other answer."""
    rating: str | None = None
    """The column that says whether the answer is good: true or false, 1 or 0, up or down."""
    words: str | None = None
    """The column that holds a list of words, for tagging."""
    tags: str | None = None
    """The column that holds one tag per word."""
    separator: str | None = None
    """The string between two documents of one text file. None: a file is one document."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """The character between two cells of a CSV file. None: found from the file."""
    encoding: str | None = None
    """The text encoding of the files. None: found from each file."""
    split: Literal["train", "val", "test"] | None = None
    """Use all rows of this source for one split, such as an official test file. None: split by `data.split`."""
    keep: Strings = ()
    """Columns kept beside the text, such as ["channel", "product"]: test rows can be sliced by them."""
    licence: str | None = None
    """The licence of the data: on the data card and beside every example."""

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either path, or url and query")
        if (self.url is None) != (self.query is None):
            raise ValueError("url and query belong together")
        if (self.words is None) != (self.tags is None):
            raise ValueError("words and tags belong together")
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("chosen and rejected belong together")
        if (self.prompt is None) != (self.response is None) and self.chosen is None:
            raise ValueError("prompt and response belong together")
        if self.rating is not None and self.response is None and self.messages is None:
            raise ValueError("rating needs the answer that is rated: prompt and response, or messages")
        for name in self.keep:
            if name in SLICED_BY:
                raise ValueError(
                    f"keep can't name {name!r}: test rows are sliced by their own {name}; rename the column"
                )
        return self


class Clean(Section):
    unicode: bool = True
    """Repair mojibake, normalise to NFC, and drop control characters and stray whitespace."""
    profile: Literal["web", "manuals", "code", "chat", "table"] | None = None
    """The set of quality rules for running text. None: no quality rules."""
    pii: Literal["mask", "keep"] = "mask"
    """Replace e-mail addresses, phone, card and account numbers, IP addresses and keys by placeholders, or keep."""
    region: str = "US"
    """The country (ISO code) that phone and identity numbers without a mark of their own belong to."""
    names: str | None = None
    """A function "package.module:function" that finds the names in a text, (start, end) each. None: they stay."""
    min_chars: int = Field(default=1, ge=1)
    """Rows whose text is shorter are dropped, in characters."""
    boilerplate: bool = True
    """Remove the lines that more than 30 % of a source's pages share, such as menus, heads and feet."""
    language: bool = False
    """Name the language of each row in the ledger and on the card; needs `pip install 'wyrmling[language]'`."""
    languages: Strings = ()
    """Keep only rows in these languages (ISO 639-1, such as "en"), and those too short to tell. Empty: all."""
    restore: Strings = ()
    """Rules that drop no row any more, such as "words"; see by_rule on the data card, and `wyrmling data restore`."""


class Dedup(Section):
    exact: bool = True
    """Drop rows whose text, in matching form, was seen before."""
    near: bool = True
    """Drop running text that is nearly the same as a kept one; labelled rows stay but share a split."""
    threshold: float = Field(default=0.75, gt=0, le=1)
    """Jaccard similarity of 5-word shingles from which two texts are near-duplicates."""
    prefer: Strings = ()
    """Sources whose rows survive when others say the same, the best first. Sources not named follow in file order."""


class Split(Section):
    val: float | None = Field(default=None, ge=0, lt=1)
    """Share of rows held out to watch training. None: 10 %, at most 2,000 rows."""
    test: float | None = Field(default=None, ge=0, lt=1)
    """Share of rows held out for the evaluation. None: 10 %, at most 10,000 rows; 0 where a source is the test set."""
    group: str | None = None
    """A column whose equal values stay in one split, such as a customer or thread."""
    date: str | None = None
    """A column with a date: the newest rows are the test rows, those before them val, the oldest train."""
    stratify: bool = False
    """Give every label its share of each split; then new rows may move old ones."""
    decontaminate: bool = True
    """Drop rows to learn from that give away a validation or test row: by 13 words, or by half of its 8-word runs."""


class Labels(Section):
    check: bool = False
    """Rank the labels that are likely wrong in `label_review.csv`; takes a classifier over five folds."""
    review: str | None = None
    """A copy of `label_review.csv` whose column `decision` is filled in; the decisions are applied to the rows."""


class Data(Section):
    sources: dict[str, Source] = Field(min_length=1)
    """The origins of rows, by name."""
    clean: Clean = Clean()
    dedup: Dedup = Dedup()
    split: Split = Split()
    labels: Labels = Labels()

    @model_validator(mode="after")
    def _known_sources(self) -> Data:
        for name in self.dedup.prefer:
            if name not in self.sources:
                raise ValueError(f"dedup.prefer names {name!r}, but sources has {sorted(self.sources)}")
        return self

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns that some source keeps beside its texts."""
        return tuple(dict.fromkeys(name for source in self.sources.values() for name in source.keep))
