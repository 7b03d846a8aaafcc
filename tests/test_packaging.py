"""The tree keeps its promises: one-way imports, model code that survives the trip to the Hub, nothing unpackaged."""

import ast
import re
import sys
import tomllib
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_imports


ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAY_IMPORT = {
    "modeling": {"modeling"},
    "trainers": {"trainers", "modeling"},
    "hub_cards": {"hub_cards"},
    "geovr_hf": {"geovr_hf", "hub_cards", "trainers", "modeling"},
}
CACHES = {".git", ".venv", ".ruff_cache", ".pytest_cache", "__pycache__"}
NOT_OURS = CACHES | {"build", "dist", "runs", "outputs"}
TRAVELLING = sorted(path for path in (ROOT / "modeling").glob("*.py") if path.name != "__init__.py")
SOURCES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def own_files(folder: Path):
    for path in sorted(folder.iterdir()):
        if path.name in NOT_OURS or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from own_files(path)
        else:
            yield path


def imports(path: Path) -> list[tuple[ast.stmt, int, str]]:
    """Each import of a file, wherever it stands: the statement, its level of dots, the module it names."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node, 0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node, node.level, node.module or ""))
    return found


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node, level, module in imports(path):
        package, *rest = module.split(".")
        if level or package != "geovr_hf":
            continue
        names = rest[:1] or [alias.name for alias in getattr(node, "names", []) if alias.name != "__version__"]
        rooms |= {name if name in MAY_IMPORT else "geovr_hf" for name in names}
    return rooms


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_rooms_import_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    assert imported_rooms(path) <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_relative_imports_stay_in_their_room(path):
    depth = len(path.relative_to(ROOT).parts) - 1
    assert all(level <= depth for _, level, _ in imports(path))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_room_is_imported_by_its_folder_name(path):
    # `import modeling` would be a second copy of the classes that takes over the Auto registration.
    assert not {module.split(".")[0] for _, level, module in imports(path) if not level} & {
        "modeling",
        "trainers",
        "hub_cards",
    }


@pytest.mark.parametrize("path", TRAVELLING, ids=relative)
def test_relative_imports_of_model_code_are_found_when_it_is_copied_to_a_checkpoint(path):
    siblings = set()
    for node, level, module in imports(path):
        if not level:
            continue
        assert level == 1 and module and "." not in module, f"line {node.lineno}: not `from .sibling import X`"
        assert (ROOT / "modeling" / f"{module}.py").is_file(), f"line {node.lineno}: there is no modeling/{module}.py"
        siblings.add(module)
    # transformers looks for imports line by line: it misses those behind a `;` and sees those in docstrings.
    assert set(get_relative_imports(path)) == siblings


@pytest.mark.parametrize("path", TRAVELLING, ids=relative)
def test_model_code_needs_nothing_but_transformers_and_what_it_brings(path):
    modules = {module.split(".")[0] for _, level, module in imports(path) if not level}
    brought = {"torch", "transformers", "numpy", "huggingface_hub", "tokenizers"}
    assert modules <= brought | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", TRAVELLING, ids=relative)
def test_model_code_keeps_annotations_that_can_be_evaluated(path):
    # With postponed annotations `config: GeoVRConfig` is a string, and loading a checkpoint fails.
    assert all(module != "__future__" for _, _, module in imports(path))


@pytest.mark.parametrize("path", TRAVELLING, ids=relative)
def test_no_model_class_passes_for_a_tokenizer(path):
    # transformers gives a class with this word in its name another form of `auto_map` entry.
    names = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    assert not [name for name in names if "Tokenizer" in name]


def test_model_code_is_flat():
    assert not [path.name for path in (ROOT / "modeling").iterdir() if path.is_dir() and path.name not in NOT_OURS]


def test_every_library_that_is_imported_is_declared():
    project = PYPROJECT["project"]
    # What pillow and pyyaml are imported as; and triton, which torch brings where its kernels can run.
    declared = {"PIL", "yaml", "triton"}
    for requirement in [*project["dependencies"], *chain(*project["optional-dependencies"].values())]:
        declared.add(re.match(r"[\w.-]+", requirement)[0].replace("-", "_"))
    imported = {module.split(".")[0] for path in SOURCES for _, level, module in imports(path) if not level}
    assert imported <= declared | set(sys.stdlib_module_names)


class TestPackageList:
    settings = PYPROJECT["tool"]["setuptools"]

    def folder(self, package: str) -> Path:
        mapped = self.settings["package-dir"].get(package)
        return ROOT / (mapped or package.replace(".", "/"))

    def test_every_folder_is_a_listed_package(self):
        folders = {path.parent for room in MAY_IMPORT for path in own_files(ROOT / room)}
        assert folders == {self.folder(package) for package in self.settings["packages"]}

    def test_every_file_that_is_not_python_is_package_data(self):
        patterns = self.settings["package-data"]
        shipped = [
            path
            for package in self.settings["packages"]
            for path in self.folder(package).iterdir()
            if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns.get(package, []))
        ]
        others = [path for room in MAY_IMPORT for path in own_files(ROOT / room) if path.suffix != ".py"]
        assert sorted(shipped) == sorted(others)


def test_no_file_names_a_path_of_somebodys_machine():
    somebodys = re.compile(rb"(?<![\w.:/>}])/(?:home|root|Users|tmp|work|workspace|mnt)/\w")
    found = [
        f"{relative(path)}:{number}"
        for path in own_files(ROOT)
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".jinja", ".json", ".txt", ""}
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if somebodys.search(line)
    ]
    assert not found


def test_no_python_file_passes_the_hard_stop_of_500_lines():
    assert not [relative(path) for path in SOURCES if len(path.read_text().splitlines()) > 500]


def test_every_file_that_contributing_points_to_exists():
    named = re.findall(r"`((?:modeling|trainers|hub_cards|geovr_hf)/[\w./]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
