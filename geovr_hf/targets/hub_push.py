"""A target folder becomes a data set on the Hub, in commits that can be resumed.

Clips go first, a hundred in a commit; index, manifest and card follow in one last commit. So a data set without them
is known to be unfinished, and one with them is whole.
"""

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from tqdm.auto import tqdm

from .folder import TargetFolder
from .hub_files import README, STAGING, THREADS, RemoteFiles, read_index, resumable
from .index import INDEX, UNREADABLE
from .manifest import MANIFEST, Manifest
from .whole_files import unfinished_files


# What the Hub asks for: files in a repository, and files in a commit.
MAX_FILES = 100_000
FILES_PER_COMMIT = 100


def push_target_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    license: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Upload a finished folder of targets as a data set, with a card.

    Every file is verified before anything is sent. If the upload breaks off, the same call continues it: a clip that
    has arrived is not sent again. Clips that the data set has already are compared by checksum and left alone.

    Args:
        folder (`str` or `Path`):
            A folder that `geovr precompute` has finished.
        repo_id (`str`):
            Id of the data set on the Hub; it is made if need be.
        private (`bool`, *optional*):
            Whether a new data set is private. By default what the account's settings say.
        revision (`str`, *optional*):
            Branch to push to, made if need be. By default `main`.
        license (`str`, *optional*):
            Licence of the data set, an id of the Hub's list. A non-commercial teacher leaves no choice; by default
            none is stated. See `hub_cards/licence.py`.
        token (`str` or `bool`, *optional*):
            Token of the Hub; by default the stored one.

    Returns:
        `str`: Address of the data set.

    Raises:
        ValueError: The folder is not finished, damaged, or larger than a repository may be; the teacher does not allow
            the licence; or the data set holds something else, or clips that the folder lacks.
        OSError: The Hub refused, or the connection broke.
    """
    from .card import card_data  # cards import the trainer, which readers of targets do without

    folder = TargetFolder(folder)
    files = {path.relative_to(folder.path).as_posix(): path for path in folder.files()}
    _check_finished(folder, files)
    facts = card_data(folder.path, repo_id, license)
    facts.render()  # what is wrong with a card should stop a push before it starts, not after the last clip

    api = HfApi(token=token)
    address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    facts.repo_id = repo_id = address.repo_id  # with the account's name
    card = facts.render()
    card.validate()
    if revision is not None:
        api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
    remote = RemoteFiles(api, repo_id, revision)
    _check_data_set(folder, files, remote, private)

    with resumable(f"The push of {folder.path} to {repo_id}"):
        names = list(files)
        with tqdm(total=facts.num_bytes, desc="Pushing", unit="B", unit_scale=True) as bar:
            for start in range(0, len(names), FILES_PER_COMMIT):
                batch = {name: files[name] for name in names[start : start + FILES_PER_COMMIT]}
                _commit(remote, batch, f"Clips {start + 1} to {start + len(batch)} of {len(names)}")
                bar.update(sum(path.stat().st_size for path in batch.values()))
        last = {name: path for name in (UNREADABLE, INDEX, MANIFEST) if (path := folder.path / name).exists()}
        _commit(remote, {**last, README: str(card).encode()}, f"Index, manifest and card of {len(names)} clips")
    return f"{address}/tree/{revision}" if revision else str(address)


def _check_finished(folder: TargetFolder, files: Mapping[str, Path]) -> None:
    """Refuse a folder that is still written to, was left half-written, or is damaged."""
    leftovers = [*unfinished_files(folder.path), *folder.path.glob(STAGING)]
    if leftovers:
        raise ValueError(
            f"{folder.path} is not finished: {leftovers[0]} belongs to something that still runs or broke off. Run "
            f"{'the pull' if leftovers[0].name == STAGING else '`geovr precompute`'} again to finish it."
        )
    if not files:
        raise ValueError(f"{folder.path} has no clips. `geovr precompute` computes them.")
    if len(files) > MAX_FILES - 10:  # index, manifest, card and what the Hub adds
        raise ValueError(
            f"{folder.path} has {len(files)} clips, but a repository of the Hub should have at most {MAX_FILES} "
            f"files. Move some of the folders clips/?? into another folder, with a copy of {MANIFEST}, run `geovr "
            "precompute` on the rows of each, and push them to two repositories: pulled into one folder they are "
            "joined again."
        )
    if problems := folder.verify(progress=True):
        raise ValueError(f"{folder.path} has {len(problems)} damaged files, the first: {problems[0]}")
    found = {name: record.checksum for name, record in zip(files, folder.records(), strict=True)}
    if folder.manifest.contents is None or found != read_index(folder.path):
        raise ValueError(
            f"{folder.path} is not finished: {INDEX} does not list just the {len(files)} clips that are there. Run "
            "`geovr precompute` again, which computes what is missing and writes the index."
        )


def _check_data_set(
    folder: TargetFolder, files: Mapping[str, Path], remote: RemoteFiles, private: bool | None
) -> None:
    """Refuse to push over what is not this folder, or is more than it, or to where the wrong people may read it."""
    is_private = remote.api.repo_info(remote.repo_id, repo_type="dataset").private
    if private is not None and is_private != private:
        raise ValueError(
            f"{remote.repo_id} exists already, and is {'private' if is_private else 'public'}. Change that in its "
            "settings on the Hub, or push to another repository."
        )
    foreign = remote.files.keys() - remote.clips - {".gitattributes", README, INDEX, UNREADABLE}
    if MANIFEST in foreign:
        with tempfile.TemporaryDirectory() as temporary:
            remote.download(MANIFEST, Path(temporary))
            Manifest.read(temporary).check_same(folder.manifest, f"The data set {remote.repo_id}")
    elif foreign:
        raise ValueError(
            f"{remote.repo_id} holds no targets, but other files, such as {min(foreign)}. Push to another repository."
        )
    if lacking := remote.clips - files.keys():
        raise ValueError(
            f"{remote.repo_id} has {len(lacking)} clips that {folder.path} lacks, and the new index would forget "
            "them. Pull it into the folder first, which joins the two, or push to another repository."
        )


def _commit(remote: RemoteFiles, files: Mapping[str, Path | bytes], title: str) -> None:
    """Upload and commit those of some files that the data set does not have."""
    with ThreadPoolExecutor(THREADS) as pool:
        there = pool.map(remote.has, files.keys(), files.values())
        operations = [
            CommitOperationAdd(name, content)
            for (name, content), is_there in zip(files.items(), there, strict=True)
            if not is_there
        ]
    if operations:
        remote.api.create_commit(
            remote.repo_id, operations, commit_message=title, repo_type="dataset", revision=remote.revision
        )
