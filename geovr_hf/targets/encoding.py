"""How the targets of a clip are stored: which number formats, and from targets to tensors and back.

Features are averaged to the student's token grid first, as the model would do it, so nothing that training reads is
lost by that. Cameras and metric scale are small and stay float32.
"""

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from geovr_hf.modeling.heads_geovr import pool_feature_grid
from geovr_hf.modeling.targets_geovr import GeometryTargets
from geovr_hf.teachers.teacher import TeacherSpec

from .quantization import GROUP_SIZES, as_half, dequantize, dequantize_confidence, quantize, quantize_confidence


FeatureFormat = Literal["bfloat16", "float32", "float16", "int8", "float8", "int4"]
DepthFormat = Literal["float16", "float32"]
ConfidenceFormat = Literal["float16", "float32", "uint4"]


@dataclass(frozen=True)
class TargetFormat:
    """Number formats of stored targets. `docs/targets.md` has the sizes and the errors.

    Args:
        features (`str`, *optional*, defaults to `"bfloat16"`):
            `"bfloat16"`, `"float32"`, `"float16"`, or with a scale for every group of a token's channels `"int8"`,
            `"float8"` (groups of 128) or `"int4"` (of 32).
        depth (`str`, *optional*, defaults to `"float16"`):
            `"float16"`, divided by a power of two where a clip's depth would leave its range, or `"float32"`.
        confidence (`str`, *optional*, defaults to `"float16"`):
            `"float16"`, bounded to its range, `"float32"`, or `"uint4"`: fifteen levels of the clip, and exactly 0.
        depth_scale (`float`, *optional*, defaults to 1.0):
            Size of the depth maps along each axis: 0.5 keeps half as many tiles, each the pixels of one visual token.
            Pixels are picked, not mixed.

    Raises:
        ValueError: A format is unknown, or `depth_scale` is not in (0, 1].
    """

    features: FeatureFormat = "bfloat16"
    depth: DepthFormat = "float16"
    confidence: ConfidenceFormat = "float16"
    depth_scale: float = 1.0

    def __post_init__(self):
        for name, kind in (("features", FeatureFormat), ("depth", DepthFormat), ("confidence", ConfidenceFormat)):
            if getattr(self, name) not in typing.get_args(kind):
                raise ValueError(
                    f"`{name}` must be stored as one of {', '.join(typing.get_args(kind))}, got "
                    f"{getattr(self, name)!r}."
                )
        if not 0 < self.depth_scale <= 1:
            raise ValueError(f"`depth_scale` must be above 0 and at most 1, got {self.depth_scale}.")

    @classmethod
    def preset(cls, name: str) -> "TargetFormat":
        """The format called `"full"`, `"8bit"` or `"compact"`.

        Raises:
            ValueError: There is no preset of that name.
        """
        if name not in PRESETS:
            raise ValueError(f"No preset {name!r} of target formats: there are {', '.join(PRESETS)}.")
        return PRESETS[name]


PRESETS = {
    "full": TargetFormat(),
    "8bit": TargetFormat(features="int8", confidence="uint4"),
    "compact": TargetFormat(features="int4", confidence="uint4", depth_scale=0.5),
}


def encode_targets(
    targets: GeometryTargets, target_format: TargetFormat, spec: TeacherSpec, name: str = "the clip"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Turn targets into named tensors to store.

    Args:
        targets ([`GeometryTargets`]): Targets of one clip, on any device; what is computed is computed there.
        target_format ([`TargetFormat`]): Number formats.
        spec ([`TeacherSpec`]): Says how many patches make a visual token, and how many pixels.
        name (`str`, *optional*, defaults to `"the clip"`): What errors call the clip.

    Returns:
        `tuple[dict[str, torch.Tensor], dict]`: Contiguous tensors on the CPU, and what [`decode_targets`] has to know
        of them, fit for JSON. A field that is `None` has no tensor.

    Raises:
        ValueError: The targets are not sound ([`GeometryTargets.validate`]) or leave the range of a format.
    """
    targets.validate(name)
    tensors: dict[str, torch.Tensor] = {}
    facts: dict[str, Any] = {"frames": targets.num_frames}
    if targets.pose_enc is not None:
        tensors["pose_enc"] = targets.pose_enc.float()
    if targets.metric_scale is not None:
        tensors["metric_scale"] = targets.metric_scale.float()
    if targets.features is not None:
        pooled = targets.features_pooled or spec.pool_size == 1
        facts["features"] = {"format": target_format.features, "shapes": []}
        for layer, features in enumerate(targets.features):
            features = features.float() if pooled else pool_feature_grid(features.float(), spec.pool_size)
            facts["features"]["shapes"].append(list(features.shape))
            tensors |= _encode_features(features, layer, target_format.features, name)
    if targets.depth is not None:
        maps = _resized(targets.depth, target_format.depth_scale, spec.patch_size * spec.pool_size)
        confidence = targets.depth_confidence
        if confidence is not None:
            confidence = _resized(confidence, target_format.depth_scale, spec.patch_size * spec.pool_size)
            tensors |= _encode_confidence(confidence, target_format.confidence)
            facts["confidence"] = {"format": target_format.confidence}
        tensors["depth"], exponent = _encode_depth(maps, confidence, target_format.depth)
        facts["depth"] = {"format": target_format.depth, "exponent": exponent, "shape": list(maps.shape)}
    return {key: value.cpu().contiguous() for key, value in tensors.items()}, facts


def decode_targets(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> GeometryTargets:
    """Put targets together from what [`encode_targets`] made.

    Half-precision tensors are passed on as they are, so that they may stay memory-mapped and travel to the device at
    half the size; the losses widen them there. Quantised features become bfloat16, 4-bit confidence float16.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): The tensors.
        facts (`Mapping`): What was noted about them.

    Returns:
        [`GeometryTargets`]: With `features_pooled=True` if there are features.
    """
    features = depth = confidence = None
    if told := facts.get("features"):
        features = [
            _decode_features(tensors, layer, told["format"], shape[-1]) for layer, shape in enumerate(told["shapes"])
        ]
    if told := facts.get("depth"):
        depth = tensors["depth"]
        if told["exponent"]:
            depth = torch.ldexp(depth.float(), torch.tensor(told["exponent"]))
    if told := facts.get("confidence"):
        confidence = tensors["depth_confidence"]
        if told["format"] == "uint4":
            width = facts["depth"]["shape"][-1]
            confidence = dequantize_confidence(confidence, tensors["depth_confidence.levels"], width)
    return GeometryTargets(
        pose_enc=tensors.get("pose_enc"),
        depth=depth,
        depth_confidence=confidence,
        metric_scale=tensors.get("metric_scale"),
        features=features,
        features_pooled=features is not None,
    )


def _encode_features(features: torch.Tensor, layer: int, kind: str, name: str) -> dict[str, torch.Tensor]:
    if kind in GROUP_SIZES:
        codes, scales = quantize(features, kind)
        return {f"features.{layer}": codes, f"features.{layer}.scales": scales}
    stored = features.to(getattr(torch, kind))
    if kind == "float16" and not torch.isfinite(stored.aminmax().max - stored.aminmax().min):
        raise ValueError(
            f"`features[{layer}]` of {name} reach {features.abs().max().item():.0f}, float16 ends at 65504. Store "
            "them as bfloat16."
        )
    return {f"features.{layer}": stored}


def _decode_features(tensors: Mapping[str, torch.Tensor], layer: int, kind: str, channels: int) -> torch.Tensor:
    stored = tensors[f"features.{layer}"]
    if kind not in GROUP_SIZES:
        return stored
    return dequantize(stored, tensors[f"features.{layer}.scales"], kind, channels)


def _encode_confidence(confidence: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
    if kind == "uint4":
        codes, levels = quantize_confidence(confidence)
        return {"depth_confidence": codes, "depth_confidence.levels": levels}
    return {"depth_confidence": as_half(confidence) if kind == "float16" else confidence.float()}


def _encode_depth(depth: torch.Tensor, confidence: torch.Tensor | None, kind: str) -> tuple[torch.Tensor, int]:
    """Depth in `kind`, and the power of two that it was divided by. What was not measured becomes 0."""
    depth = depth.float()
    measured = torch.ones_like(depth, dtype=torch.bool) if confidence is None else confidence > 0
    depth = torch.where(measured, depth, 0.0)
    if kind == "float32":
        return depth, 0
    bounds = torch.finfo(torch.float16)
    largest, smallest = depth.max(), torch.where(measured, depth, torch.inf).min()
    if largest <= bounds.max and smallest >= bounds.tiny:
        return depth.half(), 0
    # The largest depth comes to lie in [2^14, 2^15): 29 powers of two remain below it. float32 has no 2^-127.
    exponent = max(int(torch.frexp(largest).exponent) - 15, -126)
    scaled = torch.ldexp(depth, torch.tensor(-exponent, device=depth.device))
    return torch.where(measured, scaled.clamp(min=bounds.tiny), 0.0).half(), exponent


def _resized(maps: torch.Tensor, scale: float, tile: int) -> torch.Tensor:
    """Maps `(T, H, W)` with `scale` times as many tiles along each axis, at least one."""
    if scale == 1:
        return maps
    size = tuple(max(1, round(side * scale / tile)) * tile for side in maps.shape[-2:])
    return F.interpolate(maps[:, None].float(), size, mode="nearest-exact")[:, 0]
