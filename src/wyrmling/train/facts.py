"""What sizes are derived from, read from a token store. No torch."""

from __future__ import annotations

import numpy as np

from wyrmling.config import Project
from wyrmling.core import hardware
from wyrmling.tokenizer.tokens import TokenStore
from wyrmling.train.sizing import Facts, SourceFacts


def facts_of(project: Project, store: TokenStore) -> Facts:
    """The facts of the training rows in a store."""
    machine = project.settings.machine
    source, kind, length = (np.asarray(store.rows[name]) for name in ("source", "kind", "length"))
    found = []
    for pair in sorted(set(zip(source.tolist(), kind.tolist(), strict=True))):
        lengths = length[(source == pair[0]) & (kind == pair[1])]
        found.append(
            SourceFacts(
                source=pair[0],
                kind=pair[1],
                rows=len(lengths),
                tokens=int(lengths.sum()),
                longest=int(lengths.max()),
                p99=int(np.quantile(lengths, 0.99, method="inverted_cdf")),
            )
        )
    return Facts(
        sources=tuple(found),
        vocab_size=store.vocab_size,
        labels=len(store.labels),
        tags=len(store.tag_names),
        several=store.several,
        threads=machine.threads or hardware.threads(),
        device=hardware.device(machine.device),
    )
