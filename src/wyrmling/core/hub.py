"""Models of the Hugging Face hub: found in the local cache, else downloaded once, at one commit.

Only what a model needs is fetched: settings, safetensors, the tokenizer. What could run code when opened (pickles,
Python files) is refused before anything large is downloaded. The only file that knows huggingface_hub.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from wyrmling.core.errors import BadInput, UsageError
from wyrmling.core.log import say, voice

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
WANTED = (
    CONFIG,
    INDEX,
    *WEIGHTS,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "spiece.model",
    "*.tiktoken",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "LICENSE*",
)
# Models keep copies in other formats in folders of their repository.
NOT_WANTED = ["*/*"]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SPARE_DISK = 1.1


class Snapshot(NamedTuple):
    """A model of the hub on this machine: its folder, its id and the commit it is at."""

    folder: Path
    repository: str
    commit: str


def snapshot_of(folder: Path) -> Snapshot | None:
    """The hub model whose folder in the cache this is; None for any other folder."""
    commit, snapshots, repository = folder.name, folder.parent, folder.parent.parent
    if snapshots.name != "snapshots" or not repository.name.startswith("models--"):
        return None
    return Snapshot(folder, repository.name.removeprefix("models--").replace("--", "/", 1), commit)


def fetch(repository: str, revision: str | None = None) -> Snapshot:
    """The model at a commit: from the cache without any network call when it is whole there, else downloaded.

    repository  ORGANISATION/NAME
    revision    a commit, tag or branch. None: the main branch, in the cache as it was first downloaded
    Raises      UsageError without the extra `hf`, for an unknown model or revision, and for one that must be asked for;
                BadInput when the hub can't be reached, or the model can't be used safely
    """
    found, missing = _cached(repository, revision)
    if found is not None and not missing:
        return found
    with _explained(repository, revision, missing):
        return _download(repository, revision)


def fetch_settings(repository: str, revision: str | None = None) -> Snapshot:
    """The model's folder with at least its config.json, which says what it would cost. Otherwise as `fetch`."""
    found, missing = _cached(repository, revision)
    if found is not None and CONFIG not in missing:
        return found
    with _explained(repository, revision, missing):
        from huggingface_hub import hf_hub_download

        config = Path(hf_hub_download(repository, CONFIG, revision=revision))
        _check_settings(repository, config)
        return Snapshot(config.parent, repository, config.parent.name)


def missing_files(folder: Path) -> list[str]:
    """What a model folder lacks of its settings and weights."""
    if not (folder / CONFIG).is_file():
        return [CONFIG]
    if (folder / INDEX).is_file() and not (folder / WEIGHTS[0]).is_file():
        shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(shard for shard in shards if not (folder / shard).is_file())
    return [] if (folder / WEIGHTS[0]).is_file() else [WEIGHTS[0]]


def _cached(repository: str, revision: str | None) -> tuple[Snapshot | None, list[str]]:
    """What lies in the cache, and which of its files are missing. Makes no network call."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UsageError(
            f"{repository} is no folder; models of the Hugging Face hub need an extra",
            fix='pip install "wyrmling[hf]", or give the path of a model folder',
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        path = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(WANTED),
            ignore_patterns=NOT_WANTED,
            local_files_only=True,
        )
    except IncompleteSnapshotError as error:
        folder = Path(error.snapshot_path)
        return Snapshot(folder, repository, folder.name), missing_files(folder) or ["files of its tokenizer"]
    except LocalEntryNotFoundError:
        return None, []
    except HFValidationError as error:
        raise UsageError(f"{repository!r} can't be a model of the hub: {error}") from error
    folder = Path(path)
    return Snapshot(folder, repository, folder.name), missing_files(folder)


def _download(repository: str, revision: str | None) -> Snapshot:
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if voice.quiet or not sys.stderr.isatty():
        disable_progress_bars()
    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    commit = str(info.sha)
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or () if "/" not in file.rfilename}
    _check_files(repository, list(sizes))
    _check_settings(repository, Path(hf_hub_download(repository, CONFIG, revision=commit)))
    chosen = {name: size for name, size in sizes.items() if any(fnmatch(name, pattern) for pattern in WANTED)}
    n_bytes = sum(chosen.values())
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(cache).free) < SPARE_DISK * n_bytes:
        raise BadInput(
            f"{repository} takes {n_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
            where=cache,
            fix="free some space, or set HF_HOME to a folder on a larger disk",
        )
    say(f"downloading {repository} at {commit[:12]} from {constants.ENDPOINT}: {n_bytes / 1e6:,.1f} MB into {cache}")
    path = Path(snapshot_download(repository, revision=commit, allow_patterns=list(chosen)))
    if missing := missing_files(path):
        raise BadInput(f"the download of {repository} lacks {', '.join(missing)}", where=path, fix="run it again")
    if revision != commit:
        # Where the branch stood, in the cache's own form: then the next run needs no network.
        branch = path.parent.parent / "refs" / (revision or constants.DEFAULT_REVISION)
        branch.parent.mkdir(parents=True, exist_ok=True)
        branch.write_text(commit, encoding="utf-8")
        say(f'to keep this version whatever happens to {repository}: model.revision = "{commit}"')
    return Snapshot(path, repository, path.name)


def _check_files(repository: str, names: Sequence[str]) -> None:
    """Raises BadInput unless there are settings and weights that can be opened safely."""
    if CONFIG not in names:
        raise BadInput(f"{repository} has no {CONFIG}, so it is no model of this kind", fix="name another model")
    if any(fnmatch(name, pattern) for name in names for pattern in WEIGHTS):
        return
    pickles = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in PICKLES))
    if not pickles:
        raise BadInput(f"{repository} has no {WEIGHTS[0]}", fix="name a model with safetensors weights")
    raise BadInput(
        f"the weights of {repository} are in {pickles[0]}, a pickle, which can run code when opened; "
        "only safetensors is read",
        fix=f"if you trust it: hf download {repository} --local-dir DIR, and name DIR as the model; "
        "the message then says how to convert it",
    )


def _check_settings(repository: str, config: Path) -> None:
    raw = json.loads(config.read_text(encoding="utf-8"))
    if "auto_map" in raw:
        raise BadInput(
            f"config.json of {repository} has auto_map: the model needs its own Python code, which is never run",
            fix="name a model that transformers knows without trust_remote_code",
        )


@contextlib.contextmanager
def _explained(repository: str, revision: str | None, missing: Sequence[str]) -> Iterator[None]:
    """What the hub answers, as an error that says what to do."""
    import httpx2
    from huggingface_hub import constants, errors

    at = f" at {revision}" if revision else ""
    page = f"{constants.ENDPOINT}/{repository}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise UsageError(
            f"{repository} is gated: its owner wants you to accept terms first",
            where=page,
            fix="accept them on its page, then log in with: hf auth login (or set HF_TOKEN)",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{repository} has no revision {revision!r}", where=page, fix="see its commits") from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(
            f"there is no model {repository} on the hub, or it is private",
            where=page,
            fix="check the spelling; for a private one log in with: hf auth login (or set HF_TOKEN)",
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, httpx2.TransportError) as error:
        half = f"; the cache has it in part, without {', '.join(missing)}" if missing else "; it is not in the cache"
        raise BadInput(
            f"{repository}{at} can't be downloaded: {_reason(error)}{half}",
            where=constants.HF_HUB_CACHE,
            fix="run it again with the network (unset HF_HUB_OFFLINE), or give the path of a model folder",
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise BadInput(
            f"{repository}{at} can't be downloaded: {_reason(error)}", where=page, fix="try again later"
        ) from error


def _reason(error: Any) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
