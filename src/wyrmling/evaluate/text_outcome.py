"""How well running text was predicted: bits per byte, loss, perplexity and token accuracy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from wyrmling.evaluate import metrics
from wyrmling.evaluate.metrics import Bools
from wyrmling.evaluate.outcomes import Score, ratio, ratio_difference, share, taken
from wyrmling.evaluate.statistics import Difference, Floats, Ints


@dataclass(frozen=True)
class TextOutcome:
    """How well each text (document or answer) was predicted.

    nll_N, targets_N  nats and number of all targets, end-of-text included; None for a system without tokens
    text_nll_N        nats of the targets that are text: special tokens have neither nats nor bytes
    bytes_N           UTF-8 bytes of that text
    right_N           targets whose most probable token was the right one
    """

    text_nll_N: Floats
    bytes_N: Floats
    nll_N: Floats | None = None
    targets_N: Floats | None = None
    right_N: Floats | None = None
    tokenizer: str = "bytes"
    """Names the tokenizer in signatures: losses per token compare only within one."""
    cluster_N: Ints | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Loss, perplexity and token accuracy only where the system has tokens."""
        with_tokens = self.nll_N is not None and self.targets_N is not None and self.right_N is not None
        return metrics.TEXT if with_tokens else ("bpb",)

    def right(self) -> Bools | None:
        return None

    def take(self, rows_N: Ints) -> TextOutcome:
        def some(values_N: Floats | None) -> Floats | None:
            return None if values_N is None else values_N[rows_N]

        return replace(
            self,
            text_nll_N=self.text_nll_N[rows_N],
            bytes_N=self.bytes_N[rows_N],
            nll_N=some(self.nll_N),
            targets_N=some(self.targets_N),
            right_N=some(self.right_N),
            cluster_N=taken(self.cluster_N, rows_N),
        )

    def score(self, name: str) -> Score:
        if name == "bpb":
            signature = metrics.signature("bpb", "unit:text|rolling:context")
            return ratio(self.text_nll_N / math.log(2), self.bytes_N, signature, self.cluster_N)
        if self.nll_N is None or self.targets_N is None or self.right_N is None:
            raise KeyError(f"{name} needs tokens")
        signature = metrics.signature(name, OPTIONS[name], tokenizer=self.tokenizer)
        if name == "token_accuracy":
            return share(self.right_N, self.targets_N, signature, self.cluster_N)
        loss = ratio(self.nll_N, self.targets_N, signature, self.cluster_N)
        if name == "loss":
            return loss
        value, low, high = (None if x is None else math.exp(min(x, 700.0)) for x in (loss.value, loss.low, loss.high))
        return replace(
            loss, value=value, low=low, high=high, se=None if value is None or loss.se is None else value * loss.se
        )

    def per_class(self) -> dict[str, dict[str, Score]]:
        return {}

    def difference(self, old: TextOutcome, metric: str) -> Difference:
        """This minus `old` on the same texts; only bits per byte compare across tokenizers.

        Raises   KeyError for another metric
        """
        if metric != "bpb":
            raise KeyError(metric)
        change_N = (self.text_nll_N - old.text_nll_N) / math.log(2)
        return ratio_difference(change_N, self.bytes_N, self.cluster_N)


OPTIONS = {"loss": "nats|unit:token", "perplexity": "unit:token", "token_accuracy": "unit:token"}
