"""Checkpoints on their way: out to plain Qwen3-VL, in from the published implementation, up to the Hub."""

from .export import ExportReport, export_qwen3_vl


__all__ = ["ExportReport", "export_qwen3_vl"]
