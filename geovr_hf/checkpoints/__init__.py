"""Checkpoints on their way: out to plain Qwen3-VL, in from the published implementation, up to the Hub."""

from .export import ExportReport, export_qwen3_vl
from .published import ImportedTensor, ImportReport, import_published
from .push import push_checkpoint


__all__ = [
    "ExportReport",
    "ImportReport",
    "ImportedTensor",
    "export_qwen3_vl",
    "import_published",
    "push_checkpoint",
]
