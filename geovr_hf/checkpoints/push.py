"""A checkpoint folder goes to the Hub, in one commit: whoever loads it gets the old checkpoint or the new one."""

import json
import re
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from safetensors import SafetensorError, safe_open

from .adapters import is_adapter
from .shards import ShardedWeights


# What makes a checkpoint. The Trainer's own state stays here: it is pickled, or tells paths of this machine.
_PUSHED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.py")
_NOT_PUSHED = ("trainer_state.json", "README.md", "geovr_card.json")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*")
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


def push_checkpoint(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    message: str = "Upload checkpoint",
    token: str | bool | None = None,
) -> str:
    """Upload a model, an adapter or a plain export, with its processor, its code and its card.

    The card is made anew for `repo_id`, which its code loads; one that was edited by hand is left as it is. If the
    upload breaks off, nothing is visible on the Hub, and the same call continues it: files that have arrived are not
    sent again.

    Args:
        folder (`str` or `Path`):
            The checkpoint, as `save_pretrained`, `geovr train`, `geovr export` or `geovr import` left it.
        repo_id (`str`):
            Id on the Hub; the repository is made if need be.
        private (`bool`, *optional*):
            Whether a new repository is private. By default what the account's settings say.
        revision (`str`, *optional*):
            Branch to push to, made if need be. By default `main`.
        license (`str`, *optional*):
            Licence of the checkpoint, an id of the Hub's list. A non-commercial teacher leaves no choice, see
            `hub_cards/licence.py`.
        base_model (`str`, *optional*):
            Id on the Hub of what was fine-tuned. An adapter that was trained on a folder needs it: nobody else has
            that folder.
        message (`str`, *optional*):
            Title of the commit.
        token (`str` or `bool`, *optional*):
            Token of the Hub; by default the stored one.

    Returns:
        `str`: Address of the checkpoint.

    Raises:
        ValueError: The folder is no whole checkpoint, its teacher does not allow the licence, its adapter's base is a
            folder, or the repository exists and is not as private as asked for.
        OSError: The Hub refused, or the connection broke.
    """
    from geovr_hf.targets.hub_files import resumable

    from .cards import pushed_card  # cards import peft, which nothing else here needs

    folder = Path(folder)
    files: dict[str, Path | bytes] = {path.name: path for path in checkpoint_files(folder)}
    if is_adapter(folder):
        files["adapter_config.json"] = _adapter_config(folder, base_model)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as temporary:
        # What is wrong with a card should stop a push before it starts, not after the last shard.
        card = pushed_card(folder, repo_id, license, base_model, Path(temporary))
        files |= _pictures(folder, card["README.md"].decode())
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        if address.repo_id != repo_id:  # with the account's name
            repo_id = address.repo_id
            card = pushed_card(folder, repo_id, license, base_model, Path(temporary))
        ModelCard(card["README.md"].decode()).validate(repo_type="model")
        _check_visibility(api, repo_id, private)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        files |= card
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        # Weights of an earlier checkpoint would be loaded in place of these, or beside them.
        stale = [
            name
            for name in api.list_repo_files(repo_id, revision=revision)
            if name not in files and any(fnmatch(name, pattern) for pattern in _WEIGHTS) and "/" not in name
        ]
        with resumable(f"The push of {folder} to {repo_id}"):
            api.create_commit(
                repo_id,
                [*operations, *map(CommitOperationDelete, stale)],
                commit_message=message,
                revision=revision,
            )
    return f"{address}/tree/{revision}" if revision else str(address)


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a checkpoint, without its card.

    Raises:
        ValueError: It has no configuration, no weights, or damaged ones.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    if is_adapter(folder):
        weights = folder / "adapter_model.safetensors"
        if not weights.is_file():
            raise ValueError(f"{folder} is an adapter without {weights.name}: save it again, as safetensors.")
        try:
            safe_open(weights, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{weights} is damaged: {error}. Save it again.") from error
    elif (folder / "config.json").is_file():
        ShardedWeights(folder)
    else:
        raise ValueError(f"{folder} holds neither a model nor an adapter: it has no config.json.")
    files = [path for pattern in _PUSHED for path in folder.glob(pattern) if path.name not in _NOT_PUSHED]
    return sorted(path for path in files if not path.name.startswith("."))


def _adapter_config(folder: Path, base_model: str | None) -> bytes:
    from geovr_hf.trainers.adapter_files import check_base_is_published

    content = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = base_model or content.get("base_model_name_or_path")
    check_base_is_published(base, folder)
    return (json.dumps(content | {"base_model_name_or_path": base}, indent=2, sort_keys=True) + "\n").encode()


def _pictures(folder: Path, card: str) -> dict[str, Path | bytes]:
    """The pictures that a card shows, out of its folder."""
    names = [unquote(name) for name in _PICTURE.findall(card) if "://" not in name]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"The card of {folder} shows {', '.join(missing)}, which is not there.")
    return {name: folder / name for name in names}


def _check_visibility(api: HfApi, repo_id: str, private: bool | None) -> None:
    is_private = api.repo_info(repo_id).private
    if private is not None and is_private != private:
        raise ValueError(
            f"{repo_id} exists already, and is {'private' if is_private else 'public'}. Change that in its settings "
            "on the Hub, or push to another repository."
        )
