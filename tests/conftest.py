"""Every test is offline, on the CPU unless it is marked `gpu`, and starts from the same seed."""

import os
import tempfile


# Code that Hugging Face libraries copy before they import it: not into the user's cache, and for all tests into one
# folder, since Python looks for a package where it found its first module.
_CACHE = tempfile.TemporaryDirectory(prefix="geovr_tests_", ignore_cleanup_errors=True)
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    HF_MODULES_CACHE=os.path.join(_CACHE.name, "modules"),
    HF_METRICS_CACHE=os.path.join(_CACHE.name, "metrics"),
)

import logging  # noqa: E402  (the environment has to be set before a Hugging Face library reads it)
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import set_seed  # noqa: E402


torch.set_num_threads(1)


class _NoLoadReport(logging.Filter):
    """Heads that start from scratch are reported key by key at every load; in tests that buries what matters."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()


logging.getLogger("transformers.modeling_utils").addFilter(_NoLoadReport())


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seeded():
    set_seed(0)


@pytest.fixture(scope="session")
def project_root() -> Path:
    return Path(__file__).parents[1]
