"""What was trained is what is served: the files are those that were written, and stored probes get the same answers."""

from __future__ import annotations

from pathlib import Path

from wyrmling.config import Quantize
from wyrmling.core import artifact
from wyrmling.core.errors import CorruptArtifact, GateRefused
from wyrmling.core.log import warn
from wyrmling.core.store import folder_digest
from wyrmling.model import folder as model_folder
from wyrmling.model import probes, sanity
from wyrmling.model.heads import Model
from wyrmling.model.quantize import quantize_checked
from wyrmling.serve.loaded import Found, Loaded, load
from wyrmling.tokenizer.tokenizer import Tokenizer

PLAIN_TEXTS = (
    "Once upon a time there was a little girl who lived with her mother in a small house near the river.",
    "The train leaves at nine in the morning. If you miss it, you can take the bus that comes an hour later.",
    "He said that he did not know what to do, but that he would try to find out and tell us soon.",
)


def load_checked(found: Found, *, device: str = "cpu", quantize: Quantize | None = None) -> Loaded:
    """The model, after its files and answers were compared with those of the trained one.

    quantize   round the weights then, and compare the answers again. None: not

    A folder that another program made has nothing to be compared with; that is said, and it is served.
    Raises   GateRefused when a file or an answer differs; whatever loading the folder raises for other reasons
    """
    try:
        _check_files(found)
        loaded = load(found, device=device)
        if model_folder.about(found.folder) is None:
            warn_unproven(loaded.model, loaded.tokenizer, found.name)
        else:
            probes.replay(found.folder, loaded.model, tokenizer=loaded.tokenizer)
        if quantize is not None:
            quantize_checked(found.folder, loaded.model, quantize)
    except CorruptArtifact as error:
        raise GateRefused(f"this model is not served: {error.what}", where=error.where, fix=error.fix) from error
    return loaded


def warn_unproven(model: Model, tokenizer: Tokenizer, name: str) -> None:
    """Say what is not known of a model that another program made, and when it reads plain English worse than a guess.

    That is no proof: it may be made for proteins or music. Training, which knows the texts it is for, refuses it.
    """
    warn(f"{name} was not made by wyrmling and has no stored probes: its answers can't be checked")
    if model.head_name != "next":
        return
    try:
        sanity.check(model, [tokenizer.prompt(text) for text in PLAIN_TEXTS])
    except GateRefused as error:
        warn(f"unless {name} was made for texts unlike plain English, it is broken: {error.what}; {error.fix}")


def _check_files(found: Found) -> None:
    """Compare with the registry for a registered model, and with the manifest for one inside its artifact."""
    if found.version is not None and folder_digest(found.folder) != found.digest:
        raise GateRefused(
            f"this model is not served: its files are not those that were registered as {found.name}:{found.version}",
            where=found.folder,
            fix="restore the folder from a backup, or train and register it again with: wyrmling run",
        )
    home: Path = found.folder.parent
    if found.folder.name == "model" and (home / artifact.MANIFEST).is_file():
        artifact.open_artifact(home, verify=True)
