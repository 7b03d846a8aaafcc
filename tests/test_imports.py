"""What `import geovr_hf` gives and what it costs, each in a process of its own, away from the source tree."""

import json
import os
import subprocess
import sys

import pytest

import geovr_hf
from geovr_hf.extras import import_extra


PUBLIC_NAMES = {
    "GeoVRConfig",
    "GeoVRDataCollator",
    "GeoVRForConditionalGeneration",
    "GeoVRProcessor",
    "GeoVRTrainer",
    "GeoVRTrainingArguments",
    "GeometryTargets",
    "load_teacher",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, project_root):
    """Run Python code in a fresh process that finds the package but does not stand in its tree."""

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path_factory.mktemp("elsewhere"),
            env=os.environ | {"PYTHONPATH": str(project_root)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def after_import(run) -> dict:
    """The modules that `import geovr_hf` loads, and what transformers then knows."""
    return json.loads(
        run(
            "import json, sys, geovr_hf\n"
            "modules = list(sys.modules)\n"
            "from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM\n"
            "from transformers.models.auto.processing_auto import PROCESSOR_MAPPING\n"
            "config = type(AutoConfig.for_model('geovr'))\n"
            "known = {\n"
            "    'AutoConfig': config,\n"
            "    'AutoModel': AutoModel._model_mapping[config],\n"
            "    'AutoModelForImageTextToText': AutoModelForImageTextToText._model_mapping[config],\n"
            "    'AutoModelForMultimodalLM': AutoModelForMultimodalLM._model_mapping[config],\n"
            "    'AutoProcessor': PROCESSOR_MAPPING[config],\n"
            "}\n"
            "known = {auto: f'{cls.__module__}.{cls.__name__}' for auto, cls in known.items()}\n"
            "print(json.dumps({'modules': modules, 'known': known}))"
        )
    )


def test_the_public_names_are_the_documented_ones():
    assert set(geovr_hf.__all__) == PUBLIC_NAMES
    assert set(dir(geovr_hf)) >= PUBLIC_NAMES


def test_every_public_name_can_be_imported(run):
    run(f"from geovr_hf import {', '.join(sorted(PUBLIC_NAMES))}")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'geovr_hf' has no attribute 'GeoVRTokens'"):
        geovr_hf.GeoVRTokens  # noqa: B018


def test_importing_the_package_registers_the_auto_classes(after_import):
    assert after_import["known"] == {
        "AutoConfig": "geovr_hf.modeling.configuration_geovr.GeoVRConfig",
        "AutoModel": "geovr_hf.modeling.modeling_geovr.GeoVRForConditionalGeneration",
        "AutoModelForImageTextToText": "geovr_hf.modeling.modeling_geovr.GeoVRForConditionalGeneration",
        "AutoModelForMultimodalLM": "geovr_hf.modeling.modeling_geovr.GeoVRForConditionalGeneration",
        "AutoProcessor": "geovr_hf.modeling.processing_geovr.GeoVRProcessor",
    }


def test_importing_the_package_loads_model_code_once_and_under_its_own_name(after_import):
    assert not {"modeling", "trainers", "hub_cards"} & {*after_import["modules"]}


def test_importing_the_package_leaves_trainers_teachers_and_optional_libraries_for_later(after_import):
    rooms = {f"geovr_hf.{room}" for room in ("trainers", "teachers", "data", "hub_cards", "visualization")}
    libraries = {"peft", "trl", "datasets", "av", "trimesh", "embreex", "matplotlib"}
    assert not (rooms | libraries) & {*after_import["modules"]}


def test_all_but_what_needs_them_works_without_optional_libraries(run):
    run(
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['datasets', 'av', 'trimesh', 'embreex', 'scipy', 'matplotlib']))\n"
        "import geovr_hf, geovr_hf.trainers, geovr_hf.hub_cards, geovr_hf.data, geovr_hf.teachers\n"
        "import geovr_hf.visualization, geovr_hf.cli\n"
        "[getattr(geovr_hf, name) for name in geovr_hf.__all__]"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r'^Rooms need somelib: pip install "geovr_hf\[rooms\]"$'),
        (
            "raise ValueError('numpy.dtype size changed')",
            r"cannot be imported \(numpy.dtype size changed\): .*--upgrade",
        ),
        ("from os import nothing_of_the_kind", r"cannot be imported \(cannot import name 'nothing_of_the_kind'"),
        ("import a_library_of_its_own", "^No module named 'a_library_of_its_own'$"),
    ],
    ids=["missing", "for another NumPy", "broken", "in need of another"],
)
def test_a_library_of_an_extra_that_cannot_be_imported_is_told_with_its_cure(content, message, tmp_path, monkeypatch):
    if content is not None:
        (tmp_path / "somelib.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=message):
        import_extra("somelib", "rooms", "Rooms need somelib")
