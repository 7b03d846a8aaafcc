"""What the card of a target folder says, from its manifest."""

from pathlib import Path

from geovr_hf.hub_cards import GeoVRTargetsCardData

from .index import read_unreadable
from .manifest import Manifest


_ROW_SAMPLING = ("start", "end")  # of a row's own clip, no argument of the data set


def card_data(folder: str | Path, repo_id: str, license: str | None = None) -> GeoVRTargetsCardData:
    """Facts of the card of a finished target folder.

    Args:
        folder (`str` or `Path`): The folder, with an index.
        repo_id (`str`): Id of the data set that it becomes on the Hub.
        license (`str`, *optional*): Licence of that data set, an id of the Hub's list.

    Raises:
        ValueError: The folder has no manifest, or a damaged one.
    """
    manifest = Manifest.read(folder)
    return GeoVRTargetsCardData(
        repo_id,
        teacher=manifest.spec,
        metric=manifest.metric,
        num_clips=manifest.contents["clips"],
        num_bytes=manifest.contents["bytes"],
        num_unreadable=len(read_unreadable(folder)),
        contents=_contents(manifest),
        sampling={name: value for name, value in manifest.sampling.items() if name not in _ROW_SAMPLING},
        license=license,
        versions={"geovr_hf": manifest.code_version},
    )


def _contents(manifest: Manifest) -> dict[str, str]:
    spec, told, kinds = manifest.spec, manifest.contents, manifest.format
    shortest, longest = told["frames"] or (0, 0)
    facts = {
        "frames": f"{longest}" if shortest == longest else f"{shortest} to {longest}",
        "image of the teacher": spec.image_rule
        and f"longest side {spec.image_rule.longest_side} pixels, sides multiples of {spec.image_rule.multiple}",
        "camera": "float32: translation, quaternion x y z w, vertical and horizontal field of view; camera from world",
        "depth": told["depth_sizes"] and f"{kinds.depth}, {_sizes(told['depth_sizes'])}",
        "confidence of depth": told["depth_sizes"] and kinds.confidence,
        "features": told["feature_sizes"]
        and f"{kinds.features}, layers {', '.join(map(str, spec.alignment_layers))}, {_sizes(told['feature_sizes'])}",
    }
    return {name: fact for name, fact in facts.items() if fact}


def _sizes(sizes: list[list[int]], shown: int = 3) -> str:
    """Sizes as `392 × 504`, the first few of many."""
    written = [" × ".join(map(str, size)) for size in sizes[:shown]]
    return " or ".join(written) + (f" or {len(sizes) - shown} others" if len(sizes) > shown else "")
