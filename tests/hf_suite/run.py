r"""Run transformers' own test suites on GeoVR and on plain Qwen3-VL, and compare.

    python tests/hf_suite/run.py [--workers 2] [-k EXPRESSION] [--tests FOLDER]

The common tests of models, configurations, processors and video processors come from the source distribution of the
installed transformers version. They are downloaded from the package index into `.cache/hf_suite/` and are no part of
this project. Both candidates run in the same harness:

    candidates.py       the classes under test
    model_suite.py      the common model and configuration tests, on images and on clips with geometry tokens
    processor_suite.py  the common processor and video-processor tests
    plugin.py           seeds, and the record of outcomes
    stand_ins.py        what the released test files import and the source distribution lacks

A test that fails natively, too, says something about the harness (no GPU, no network, no torchcodec). The exit status
is 1 if a test fails, or is skipped, for GeoVR alone. The source distribution lacks the generation tests, whose place
tests/test_generation_parity.py takes; with `--tests`, the tests folder of a transformers checkout of the installed
version is used instead, and they run as well.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers


HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
CACHE = PROJECT / ".cache" / "hf_suite"
BASELINE, CANDIDATE = "qwen3_vl", "geovr"

SUITES = {
    "model_suite.py": "tests/test_model_suite.py",
    "processor_suite.py": "tests/test_processor_suite.py",
}
STAND_INS = {
    "tests/generation/test_utils.py": "GenerationTesterMixin",
    "tests/exporters/test_export.py": "ExportTesterMixin",
    "tests/utils/test_configuration_utils.py": "config_common_kwargs",
    "utils/fetch_hub_objects_for_ci.py": "url_to_local_path",
}


def download_tests() -> Path:
    """Tests folder of the installed version's source distribution."""
    folder = CACHE / f"transformers-{transformers.__version__}"
    if folder.exists():
        return folder / "tests"
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE.parent / ".gitignore").write_text("*\n")
    with TemporaryDirectory(dir=CACHE) as download:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        command = [*pip, "--dest", download, f"transformers=={transformers.__version__}"]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            raise SystemExit(
                f"{process.stdout}{process.stderr}\nThe source distribution of {folder.name} could not be downloaded. "
                "The suite needs a package index once; set PIP_INDEX_URL if yours is not PyPI."
            )
        with tarfile.open(Path(download) / f"{folder.name}.tar.gz") as archive:
            members = [member for member in archive if member.name.startswith(f"{folder.name}/tests/")]
            archive.extractall(download, members, filter="data")
        os.replace(Path(download) / folder.name, folder)
    return folder / "tests"


def lay_out(tests: Path) -> Path:
    """Make the tree that the released test files expect around them."""
    tree = CACHE / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(tests, tree / "tests")
    for path, name in STAND_INS.items():
        if not (tree / path).exists():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(f"from stand_ins import {name}\n")
    for source, path in SUITES.items():
        shutil.copyfile(HERE / source, tree / path)
    (tree / "tests" / "__init__.py").touch()
    (tree / "pytest.ini").write_text("[pytest]\n")
    return tree


def run_suites(tree: Path, candidate: str, workers: int, expression: str) -> dict[str, str]:
    """Outcome of every test for one candidate: `"passed"`, `"failed"` or `"skipped"`."""
    outcomes = tree / f"{candidate}.json"
    log = CACHE / f"{candidate}.log"
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_SUITE_CANDIDATE": candidate,
        "HF_SUITE_OUTCOMES": str(outcomes),
        "PYTHONPATH": os.pathsep.join((str(HERE), str(PROJECT))),
    }
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-rfEs", "-p", "no:cacheprovider", "-p", "plugin"]
    command += ["-n", str(workers), "-k", expression, "--timeout", "600", *SUITES.values()]
    with log.open("w") as file:
        subprocess.run(command, cwd=tree, env=environment, stdout=file, stderr=subprocess.STDOUT)
    results = json.loads(outcomes.read_text()) if outcomes.exists() else {}
    if not results or "not collected" in results.values():
        raise SystemExit(f"{log.read_text()}\nThe suites could not be run on {candidate}.")
    return results


def report(results: dict[str, dict[str, str]]) -> bool:
    """Print the counts and the differences; return whether GeoVR is as good as the baseline."""
    for candidate, outcomes in results.items():
        print(f"\n{candidate}:")
        for suite in sorted({test.rsplit("::", 1)[0] for test in outcomes}):
            values = [outcome for test, outcome in outcomes.items() if test.startswith(f"{suite}::")]
            counts = ", ".join(f"{values.count(outcome)} {outcome}" for outcome in ("passed", "failed", "skipped"))
            print(f"  {suite.split('::')[-1]:20} {counts}")
    baseline, outcomes = results[BASELINE], results[CANDIDATE]
    failed = {name: {test for test, outcome in results[name].items() if outcome == "failed"} for name in results}
    lost = {test for test, outcome in baseline.items() if outcome == "passed" and outcomes.get(test) != "passed"}
    regressions = sorted(lost | (failed[CANDIDATE] - failed[BASELINE]))
    for title, tests in (
        ("Fails for both", sorted(failed[BASELINE] & failed[CANDIDATE])),
        (f"Fails for {BASELINE} alone", sorted(failed[BASELINE] - failed[CANDIDATE])),
        (f"Fails or is skipped for {CANDIDATE} alone", regressions),
    ):
        print(f"\n{title}: {len(tests)}", *(f"  {test} ({outcomes.get(test, 'missing')})" for test in tests), sep="\n")
    return not regressions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes that run tests")
    parser.add_argument("-k", dest="expression", default="", help="choose tests by name, as of pytest")
    parser.add_argument("--tests", type=Path, help="tests folder of a transformers checkout")
    arguments = parser.parse_args()

    tree = lay_out(arguments.tests or download_tests())
    results = {}
    for candidate in (BASELINE, CANDIDATE):
        print(f"Running the suites on {candidate} (log: {CACHE / candidate}.log) ...", flush=True)
        results[candidate] = run_suites(tree, candidate, arguments.workers, arguments.expression)
    if not report(results):
        sys.exit(f"\nGeoVR is behind plain Qwen3-VL; see {CACHE / CANDIDATE}.log.")


if __name__ == "__main__":
    main()
