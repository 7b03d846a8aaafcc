"""Build the wheel, install it and an editable copy in new environments, and use both from another folder.

Run by `make wheel-check`. The new environments borrow the dependencies of the one that runs this script; the package
itself they can only have from the installation under test.
"""

import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path


ROOT = Path(__file__).parents[1]
ROOMS = {"modeling": "geovr_hf/modeling", "trainers": "geovr_hf/trainers", "hub_cards": "geovr_hf/hub_cards"}

USE_EVERYTHING = """
import sys
from importlib.resources import files
from pathlib import Path

import geovr_hf

origin = Path(geovr_hf.__file__).resolve()
assert origin.is_relative_to(sys.argv[1]), f"imported from {origin}, not from {sys.argv[1]}"
for name in geovr_hf.__all__:
    getattr(geovr_hf, name)
assert not {"modeling", "trainers", "hub_cards"} & {*sys.modules}

from geovr_hf.hub_cards import GeoVRModelCardData

assert files("geovr_hf.hub_cards").joinpath("geovr_model_card.jinja").is_file()
assert "# rooms" in str(GeoVRModelCardData("me/rooms").render())
recipes = [file.name for file in files("geovr_hf.recipes").iterdir() if file.name.endswith(".yaml")]
assert recipes, "no recipe was installed"

from geovr_hf.launch_configs import LAUNCH_CONFIGS, launch_config

assert all(launch_config(name).is_file() for name in LAUNCH_CONFIGS)
print(f"  {len(geovr_hf.__all__)} public names, the card template and {len(recipes)} recipes from {origin.parent}")
"""


def source_files() -> set[str]:
    """Names that the wheel must hold: every file of the rooms, at its installed place."""
    names = set()
    for room in ("geovr_hf", *ROOMS):
        for path in (ROOT / room).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                names.add(f"{ROOMS.get(room, room)}/{path.relative_to(ROOT / room).as_posix()}")
    return names


def new_environment(folder: Path, *requirement: str) -> Path:
    """Install into a new virtual environment, then lend it our dependencies; returns its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *requirement)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    # Behind the environment's own packages. The path files in there, such as our own editable one, are not read.
    site_packages.joinpath("borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name).resolve()
        elsewhere = scratch / "elsewhere"
        elsewhere.mkdir()

        print("building the wheel", flush=True)
        run(sys.executable, "-m", "build", "--quiet", "--outdir", scratch / "dist", "--no-isolation", ROOT)
        wheel = next((scratch / "dist").glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
        if shipped != source_files():
            raise SystemExit(f"the wheel and the tree differ in {sorted(shipped ^ source_files())}")

        print("wheel, in a new environment", flush=True)
        python = new_environment(scratch / "wheel", wheel)
        run(python, "-c", USE_EVERYTHING, scratch / "wheel", cwd=elsewhere)
        run(python.with_name("geovr"), "--help", cwd=elsewhere)

        print("editable, in a new environment", flush=True)
        python = new_environment(scratch / "editable", "--editable", ROOT)
        run(python, "-c", USE_EVERYTHING, ROOT, cwd=elsewhere)
        run(python, "-c", USE_EVERYTHING, ROOT, cwd=ROOT)
        print("wheel and editable installation: passed")


if __name__ == "__main__":
    main()
