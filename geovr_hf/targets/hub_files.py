"""What pushing and pulling of target folders share: the files of a data set on the Hub, compared with files here.

The data set looks like the folder. Its 256 subfolders of clips stay far below the 10,000 entries that the Hub asks
for.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import RepoFile
from tqdm.auto import tqdm

from .index import INDEX


THREADS = 8
README = "README.md"
STAGING = ".pull"  # in a folder: what has arrived, but has not been verified

_CLIP = re.compile(r"clips/[0-9a-f]{2}/[0-9a-f]{64}\.safetensors")


class _NoBar(tqdm):
    """One bar shows the whole transfer; one more for each of thousands of files would bury it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "disable": True})


class RemoteFiles:
    """The files of a data set at one revision, as the Hub lists them.

    Args:
        api ([`~huggingface_hub.HfApi`]): With the token to use.
        repo_id (`str`): Id of the data set.
        revision (`str`, *optional*): Branch, tag or commit; by default `main`.

    Attributes:
        files (`dict[str, RepoFile]`): Size and checksum of each file, by its path.
        clips (`set[str]`): Paths of those that hold a clip.

    Raises:
        HfHubHTTPError: There is no such data set or revision, or it may not be read.
    """

    def __init__(self, api: HfApi, repo_id: str, revision: str | None = None) -> None:
        self.api, self.repo_id, self.revision = api, repo_id, revision
        tree = api.list_repo_tree(repo_id, repo_type="dataset", revision=revision, recursive=True)
        self.files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        self.clips = {path for path in self.files if _CLIP.fullmatch(path)}

    def has(self, path: str, content: Path | bytes) -> bool:
        """Whether the data set has a file of this path and content."""
        remote = self.files.get(path)
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if remote is None or remote.size != size:
            return False
        # Large files go by their SHA-256, small ones by git's own checksum.
        digest = hashlib.sha256() if remote.lfs else hashlib.sha1(b"blob %d\0" % size)
        if isinstance(content, bytes):
            digest.update(content)
        else:
            with content.open("rb") as file:
                while chunk := file.read(2**20):
                    digest.update(chunk)
        return digest.hexdigest() == (remote.lfs.sha256 if remote.lfs else remote.blob_id)

    def download(self, path: str, folder: Path) -> Path:
        """Download a file to the same path below a folder, unless an earlier call did, and check that it is the Hub's.

        Raises:
            OSError: The connection broke, or what came is not what the Hub announced.
        """
        hf_hub_download(
            self.repo_id,
            path,
            repo_type="dataset",
            revision=self.revision,
            token=self.api.token,
            local_dir=folder,
            tqdm_class=_NoBar,
        )
        local = folder / path
        if not self.has(path, local):
            local.unlink()
            raise OSError(f"{path} is not what the Hub announced")
        return local


def read_index(folder: Path) -> dict[str, str]:
    """Checksum of each file that the index of a folder lists; nothing if there is no index."""
    import pyarrow.parquet

    if not (folder / INDEX).exists():
        return {}
    table = pyarrow.parquet.read_table(folder / INDEX, columns=["file", "checksum"])
    return dict(zip(table["file"].to_pylist(), table["checksum"].to_pylist(), strict=True))


@contextmanager
def resumable(what: str) -> Iterator[None]:
    """Say of whatever goes wrong in a transfer that it can be continued."""
    try:
        yield
    except Exception as error:
        reason = f"{error} ({error.__cause__})" if error.__cause__ else f"{error}"
        raise OSError(
            f"{what} broke off: {reason}. Run it again: what has arrived stays and is not transferred twice."
        ) from error
