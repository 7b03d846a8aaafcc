"""Targets computed once: stored in a folder, read back in training as a teacher.

Reading and writing need neither `datasets` nor pyarrow nor PyAV; the index needs pyarrow.
"""

from .digests import clip_key, content_digest
from .encoding import PRESETS, TargetFormat, decode_targets, encode_targets
from .files import TargetFileError, TargetRecord
from .folder import MissingTargetsError, TargetFolder, TargetWriter
from .hub_pull import pull_target_folder
from .hub_push import push_target_folder
from .manifest import Manifest
from .whole_files import remove_leftovers


__all__ = [
    "PRESETS",
    "Manifest",
    "MissingTargetsError",
    "TargetFileError",
    "TargetFolder",
    "TargetFormat",
    "TargetRecord",
    "TargetWriter",
    "clip_key",
    "content_digest",
    "decode_targets",
    "encode_targets",
    "pull_target_folder",
    "push_target_folder",
    "remove_leftovers",
]
