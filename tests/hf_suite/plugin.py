"""pytest plugin of the suites: the same random inputs for both candidates, and a record of the outcomes."""

import json
import os
import sys

import pytest
from transformers import set_seed


RANK = ("skipped", "passed", "failed")
outcomes: dict[str, str] = {}


@pytest.fixture(autouse=True)
def seeded():
    set_seed(0)
    for name in ("tests.test_modeling_common", "tests.test_processing_common"):
        if name in sys.modules:
            sys.modules[name].global_rng.seed(0)


def pytest_runtest_logreport(report):
    """Subtests report under their test's id; one that fails fails the test."""
    if report.when == "call" or report.outcome != "passed":
        known = outcomes.get(report.nodeid, "skipped")
        outcomes[report.nodeid] = max(known, report.outcome, key=RANK.index)


def pytest_collectreport(report):
    if report.failed:
        outcomes[report.nodeid] = "not collected"


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        with open(os.environ["HF_SUITE_OUTCOMES"], "w") as file:
            json.dump(outcomes, file)
