"""Benchmarks that lmms-eval lacks: a YAML file for the engine beside a module with what the file points to.

`lmms_eval --include_path` takes this folder, too.
"""

from pathlib import Path


TASKS_FOLDER = Path(__file__).parent
