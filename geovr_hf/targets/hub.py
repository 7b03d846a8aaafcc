"""Target folders on the Hub: pushed as a data set in batches that can be resumed, pulled file by file and verified.

The repository looks like the folder. Its 256 subfolders of clips stay far below the 10,000 files that the Hub asks for
in a folder; 100,000 files are its limit for a repository. Clips go first and in commits of their own; index, manifest
and card follow in one last commit, so a repository without them is known to be unfinished, and each commit that has
them is whole.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.hf_api import RepoFile
from tqdm.auto import tqdm

from .card import card_data
from .files import verify_target_file
from .folder import TargetFolder
from .index import INDEX, UNREADABLE, read_index, write_index, write_unreadable
from .manifest import MANIFEST, Manifest
