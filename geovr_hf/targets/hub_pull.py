"""A data set on the Hub becomes a target folder again, clip by clip, each verified before it is given its name."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from huggingface_hub import HfApi
from tqdm.auto import tqdm

from .files import TargetFileError, target_path, verify_target_file
from .folder import TargetFolder
from .hub_files import README, STAGING, THREADS, RemoteFiles, read_index, resumable
from .index import INDEX, UNREADABLE, read_unreadable, write_index, write_unreadable
from .manifest import MANIFEST, Manifest


def pull_target_folder(
    repo_id: str,
    folder: str | Path,
    *,
    revision: str | None = None,
    keys: Iterable[str] | None = None,
    only_index: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Download a data set of targets into a folder that [`TargetFolder`] reads.

    A clip is given its name once it agrees with its checksums, so that a pull that breaks off leaves no part of a
    file, and the same call continues it. A folder that holds targets of the same teacher, sampling and format keeps
    its own clips, and its index is made anew: several data sets can be pulled into one folder.

    Args:
        repo_id (`str`):
            Id of the data set on the Hub.
        folder (`str` or `Path`):
            Where to: a new or empty folder, one that a pull began, or one of targets alike.
        revision (`str`, *optional*):
            Branch, tag or commit. By default `main`.
        keys (`Iterable[str]`, *optional*):
            The clips to download, by their keys in the index. By default all.
        only_index (`bool`, *optional*, defaults to `False`):
            Whether to download index, manifest and card alone.
        token (`str` or `bool`, *optional*):
            Token of the Hub; by default the stored one.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: The data set holds no finished target folder, or a damaged one, or lacks a key; or the folder holds
            something else.
        OSError: The Hub refused, or the connection broke.
    """
    folder = Path(folder)
    staging = folder / STAGING
    api = HfApi(token=token)
    # One commit from here on, whatever is pushed meanwhile.
    commit = api.repo_info(repo_id, repo_type="dataset", revision=revision).sha
    remote = RemoteFiles(api, repo_id, commit)
    if not {MANIFEST, INDEX} <= remote.files.keys():
        raise ValueError(
            f"{repo_id} holds no finished target folder: it lacks {MANIFEST} or {INDEX}. If its push broke off, push "
            "again; otherwise choose another data set or `revision`."
        )
    with resumable(f"The pull of {repo_id}"), tempfile.TemporaryDirectory() as temporary:
        manifest = Manifest.read(remote.download(MANIFEST, Path(temporary)).parent)
    _check_destination(folder, manifest, only_index)

    small = [name for name in (UNREADABLE, README, INDEX, MANIFEST) if name in remote.files]
    with resumable(f"The pull of {repo_id} into {folder}"):
        for name in small:
            remote.download(name, staging)
    clips = [] if only_index else _chosen_clips(remote, read_index(staging).keys(), keys)
    _pull_clips(remote, clips, folder, manifest)

    present = {path.relative_to(folder).as_posix() for path in (folder / "clips").glob("*/*.safetensors")}
    if only_index or (keys is None and present == {*clips}):
        for name in small:  # the manifest comes last: it makes the folder one of targets
            os.replace(staging / name, folder / name)
    else:
        _join(folder, staging)
    shutil.rmtree(staging)
    return folder


def _check_destination(folder: Path, manifest: Manifest, only_index: bool) -> None:
    """Refuse to pull into what is neither empty nor alike."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; targets need a folder.")
    begun = [place for place in (folder, folder / STAGING) if (place / MANIFEST).exists()]
    for place in begun:
        Manifest.read(place).check_same(manifest, folder)
    if not begun and folder.exists() and any(path.name != STAGING for path in folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and no folder of targets. Choose another one.")
    if only_index and any((folder / "clips").glob("*/*")):
        raise ValueError(f"{folder} has clips, which an index pulled alone would not list. Choose another folder.")


def _chosen_clips(remote: RemoteFiles, listed: Iterable[str], keys: Iterable[str] | None) -> list[str]:
    """Paths of the clips to pull. They are matched with what is there: a stranger's index could name any path."""
    listed = {*listed}
    if lacking := listed - remote.clips:
        raise ValueError(
            f"{remote.repo_id} is damaged: its index lists {len(lacking)} clips that are not there, such as "
            f"{min(lacking)}. Ask for it to be pushed again, or choose another `revision`."
        )
    if keys is None:
        return sorted(listed)
    wanted = {target_path("", key).as_posix() for key in keys}
    if unknown := wanted - listed:
        raise ValueError(
            f"{remote.repo_id} has no clip {Path(min(unknown)).stem!r}: {len(unknown)} of {len(wanted)} `keys` are "
            f"not in its index. Choose from the column `key` of {INDEX}; `only_index=True` downloads it alone."
        )
    return sorted(wanted)


def _pull_clips(remote: RemoteFiles, clips: list[str], folder: Path, manifest: Manifest) -> None:
    size = {clip: remote.files[clip].size for clip in clips}
    with (
        tqdm(total=sum(size.values()), desc="Pulling", unit="B", unit_scale=True) as bar,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        jobs = {pool.submit(_pull_clip, remote, clip, folder, manifest.fingerprint): clip for clip in clips}
        try:
            for job in as_completed(jobs):
                job.result()
                bar.update(size[jobs[job]])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _pull_clip(remote: RemoteFiles, clip: str, folder: Path, fingerprint: str) -> None:
    final = folder / clip
    if final.exists() and remote.has(clip, final):
        return
    with resumable(f"The pull of {remote.repo_id} into {folder}"):
        staged = remote.download(clip, folder / STAGING)
    try:
        verify_target_file(staged, fingerprint)
    except TargetFileError as error:
        raise ValueError(
            f"{clip} is damaged in {remote.repo_id} itself: ask for it to be pushed again, or choose another "
            f"`revision`. ({error})"
        ) from error
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staged, final)


def _join(folder: Path, staging: Path) -> None:
    """Finish a folder whose clips are not just those of the data set: some of them, or others too."""
    if reasons := read_unreadable(staging) | read_unreadable(folder):
        write_unreadable(folder, reasons)
    for name in (README, MANIFEST):
        if (staging / name).exists() and not (folder / name).exists():
            os.replace(staging / name, folder / name)
    write_index(TargetFolder(folder))
