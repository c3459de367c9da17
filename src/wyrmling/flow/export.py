"""`wyrmling export`: a model for other tools, after checking that it still gives the trained answers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from wyrmling.core.errors import UsageError

FORMATS = ("hf",)


def export(model: Path, *, to: str, out: Path) -> tuple[dict[str, Any], str]:
    """Write the model folder as `out` and replay its probes there; the document and the text of what was done.

    to       hf: a Hugging Face folder, which transformers loads as it is
    Raises   UsageError for an unknown format or a target that holds something; GateRefused when the copy answers
             differently, in which case nothing is left at `out`
    """
    if to not in FORMATS:
        raise UsageError(f"there is no export format {to!r}", fix=f"the formats are: {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already exists and is not empty", fix="choose another folder")
    from wyrmling.model import probes
    from wyrmling.tokenizer.tokenizer import Tokenizer

    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(model, work)
        difference = probes.replay(work, tokenizer=Tokenizer.load(work))
        if out.is_dir():
            out.rmdir()
        os.replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    document = {"path": str(out), "format": to, "bytes": size, "probes": difference._asdict()}
    return document, f"wrote {out}  {size / 1e6:.1f} MB; {difference.probes} stored answers came out the same"
