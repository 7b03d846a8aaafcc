"""Configuration of GeoVR: a Qwen3-VL configuration plus everything its geometric heads are built from."""

import math
from collections.abc import Sequence

from huggingface_hub.dataclasses import strict
from transformers import Qwen3VLConfig


OBJECTIVES = ("camera", "depth", "scale", "alignment")

# The first ids behind the Qwen3-VL tokenizer's last token; its vocabulary is padded to 151936 rows.
_FIRST_FREE_QWEN3_ID = 151669


def map_teacher_layers(layers: Sequence[int], teacher_num_layers: int, num_layers: int) -> list[int]:
    r"""Entries of the language model's hidden-state list that are as deep as given teacher layers.

    Layer `i` of `n` goes to entry `round((i + 1) / n * num_layers)`, with halves rounded to the even number, as
    published.

    Args:
        layers (`Sequence[int]`): Teacher layers, counted from 0.
        teacher_num_layers (`int`): Number of layers of the teacher.
        num_layers (`int`): Number of decoder layers of the language model.

    Returns:
        `list[int]`: Entries of the list whose entry 0 is the embeddings and whose last is the final norm's output.

    Raises:
        ValueError: A layer is not in `[0, teacher_num_layers)`.
    """
    outside = [layer for layer in layers if not 0 <= layer < teacher_num_layers]
    if outside:
        raise ValueError(f"`layers` must lie in [0, {teacher_num_layers}), got {outside}.")
    return [round((layer + 1) / teacher_num_layers * num_layers) for layer in layers]


@strict
class GeoVRConfig(Qwen3VLConfig):
    r"""Configuration of [`GeoVRForConditionalGeneration`]. All of its structure is here, none in keyword arguments.

    The defaults are the published recipe (arXiv 2606.05833), with heads of VGGT-1B's layout. Every field of
    [`~transformers.Qwen3VLConfig`] is kept.

    Args:
        objectives (`list[str]`, *optional*, defaults to `("camera", "depth", "scale", "alignment")`):
            The geometric objectives, each of which builds its head(s). An empty list gives the plain backbone.
        camera_hidden_size (`int`, *optional*, defaults to 1536):
            Width of the camera head.
        scale_hidden_size (`int`, *optional*, defaults to 512):
            Width of the metric-scale head.
        depth_hidden_sizes (`list[int]`, *optional*, defaults to `(256, 512, 1024, 1024)`):
            Channels of the depth head's four stages, shallow to deep.
        depth_fusion_size (`int`, *optional*, defaults to 256):
            Channels of the depth head's fusion blocks.
        depth_frames_chunk_size (`int`, *optional*, defaults to 32):
            Frames that pass through the depth head at once. It bounds memory and does not change results.
        teacher (`str` or `list[str]`, *optional*):
            Name of the teacher whose targets the model was trained on, or names, if there were several: the first is
            that whose layout the heads have. `None` if it is not known, or there was none. The trainer writes it, and
            cards tell the licence by it; nothing is loaded from it.
        teacher_num_layers (`int`, *optional*, defaults to 24):
            Layers of the teacher.
        teacher_depth_layers (`list[int]`, *optional*, defaults to `(4, 11, 17, 23)`):
            The four teacher layers whose counterparts in the language model feed the depth head.
        teacher_alignment_layers (`list[int]`, *optional*, defaults to `(4, 11, 17, 23)`):
            The teacher layers whose features the alignment heads predict, one head each.
        teacher_hidden_size (`int`, *optional*, defaults to 1024):
            Channels of the teacher's features.
        teacher_patch_size (`int`, *optional*, defaults to 14):
            Pixels of a teacher patch.
        teacher_pool_size (`int`, *optional*, defaults to 2):
            Teacher patches that are average-pooled to one visual token, along each axis.
        camera_first_token_id (`int`, *optional*):
            Id of `<|camera_first|>`, which closes the first frame of a clip. By default this id and the next two are
            the first unused ones of Qwen3-VL's vocabulary (151669 to 151671), or the last three of a smaller one.
        camera_token_id (`int`, *optional*):
            Id of `<|camera|>`, which closes every other frame.
        scale_token_id (`int`, *optional*):
            Id of `<|scale|>`, which closes the clip.
        lm_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the language loss.
        camera_loss_weight (`float`, *optional*, defaults to 2.5):
            Weight of the camera loss.
        depth_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the depth loss.
        scale_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the metric-scale loss.
        alignment_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the alignment loss.
        translation_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of translation inside the camera loss.
        rotation_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of rotation inside the camera loss.
        fov_loss_weight (`float`, *optional*, defaults to 0.5):
            Weight of the field of view inside the camera loss.
        depth_loss_type (`str`, *optional*, defaults to `"l1"`):
            `"l1"` (regression and gradient parts) or `"silog"`.

    Raises:
        ValueError: An unknown objective or depth loss, head or teacher sizes that contradict each other,
            geometry-token ids that collide or lie outside the vocabulary, a loss weight below 0 or not finite.
    """

    model_type = "geovr"
    keys_to_ignore_at_inference = ["past_key_values", "rope_deltas", "pose_enc", "depth", "metric_scale"]

    # What is learnt beside the language loss.
    objectives: list[str] | tuple[str, ...] = OBJECTIVES

    # Heads.
    camera_hidden_size: int = 1536
    scale_hidden_size: int = 512
    depth_hidden_sizes: list[int] | tuple[int, ...] = (256, 512, 1024, 1024)
    depth_fusion_size: int = 256
    depth_frames_chunk_size: int = 32

    # The teacher that set the targets, and the layout of the heads that were made for it.
    teacher: str | list[str] | None = None
    teacher_num_layers: int = 24
    teacher_depth_layers: list[int] | tuple[int, ...] = (4, 11, 17, 23)
    teacher_alignment_layers: list[int] | tuple[int, ...] = (4, 11, 17, 23)
    teacher_hidden_size: int = 1024
    teacher_patch_size: int = 14
    teacher_pool_size: int = 2

    # Geometry tokens.
    camera_first_token_id: int | None = None
    camera_token_id: int | None = None
    scale_token_id: int | None = None

    # Default loss weights (the published training script's).
    lm_loss_weight: float | int = 1.0
    camera_loss_weight: float | int = 2.5
    depth_loss_weight: float | int = 1.0
    scale_loss_weight: float | int = 1.0
    alignment_loss_weight: float | int = 1.0
    translation_loss_weight: float | int = 1.0
    rotation_loss_weight: float | int = 1.0
    fov_loss_weight: float | int = 0.5
    depth_loss_type: str = "l1"

    def __post_init__(self, **kwargs):
        # A plain Qwen3-VL checkpoint's own type would otherwise shadow the class's.
        kwargs.pop("model_type", None)
        super().__post_init__(**kwargs)
        vocab_size = self.text_config.vocab_size
        first_free = min(_FIRST_FREE_QWEN3_ID, vocab_size - 3)
        for offset, name in enumerate(("camera_first_token_id", "camera_token_id", "scale_token_id")):
            if getattr(self, name) is None:
                setattr(self, name, first_free + offset)

    def validate_objectives(self):
        """Check the objectives and the sizes of the heads they need."""
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown or len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"`objectives` must be distinct names out of {OBJECTIVES}, got {self.objectives!r}.")
        if self.depth_loss_type not in ("l1", "silog"):
            raise ValueError(f"`depth_loss_type` must be 'l1' or 'silog', got {self.depth_loss_type!r}.")
        if len(self.depth_hidden_sizes) != 4 or len(self.teacher_depth_layers) != 4:
            raise ValueError(
                "The depth head has four stages: `depth_hidden_sizes` and `teacher_depth_layers` need four entries, "
                f"got {self.depth_hidden_sizes!r} and {self.teacher_depth_layers!r}."
            )
        if self.depth_tile % 4:
            raise ValueError(
                "The depth head emits maps at a quarter of a tile: `teacher_patch_size * teacher_pool_size` must be a "
                f"multiple of 4, got {self.teacher_patch_size} * {self.teacher_pool_size}."
            )
        for name in ("teacher_depth_layers", "teacher_alignment_layers"):
            if any(not 0 <= layer < self.teacher_num_layers for layer in getattr(self, name)):
                raise ValueError(
                    f"`{name}` must lie in [0, teacher_num_layers = {self.teacher_num_layers}), "
                    f"got {getattr(self, name)!r}."
                )

    def validate_geometry_tokens(self):
        """Check that the geometry tokens are three ids of the vocabulary that nothing else uses."""
        ids = self.geometry_token_ids
        taken = {self.image_token_id, self.video_token_id, self.vision_start_token_id, self.vision_end_token_id}
        vocab_size = self.text_config.vocab_size
        if len(set(ids)) != 3 or taken & set(ids) or any(not 0 <= i < vocab_size for i in ids):
            raise ValueError(
                f"The geometry tokens need three unused ids below the vocabulary size {vocab_size}, got "
                f"camera_first_token_id={ids[0]}, camera_token_id={ids[1]}, scale_token_id={ids[2]}."
            )

    def validate_loss_weights(self):
        """Check that no loss is rewarded for growing."""
        names = [name for name in type(self).__dataclass_fields__ if name.endswith("_loss_weight")]
        wrong = {name: getattr(self, name) for name in names if not 0 <= getattr(self, name) < math.inf}
        if wrong:
            raise ValueError(f"Loss weights must be finite and at least 0, got {wrong}.")

    def to_dict(self) -> dict:
        """The configuration as it is saved. Code that travels along serves every Auto class that knows Qwen3-VL."""
        output = super().to_dict()
        auto_map = output.get("auto_map") or {}
        if "AutoModelForImageTextToText" in auto_map:
            others = ("AutoModel", "AutoModelForMultimodalLM")
            output["auto_map"] = auto_map | dict.fromkeys(others, auto_map["AutoModelForImageTextToText"])
        return output

    @property
    def geometry_token_ids(self) -> tuple[int, int, int]:
        """Ids of `<|camera_first|>`, `<|camera|>` and `<|scale|>`: the rows of the geometry-token embedding."""
        return self.camera_first_token_id, self.camera_token_id, self.scale_token_id

    @property
    def depth_tile(self) -> int:
        """Pixels of depth map per visual token, along each axis: depth targets come in multiples of it."""
        return self.teacher_patch_size * self.teacher_pool_size

    @property
    def depth_state_indices(self) -> list[int]:
        """Entries of the hidden-state list that feed the depth head (0 = embeddings, last = after the final norm)."""
        return self._state_indices(self.teacher_depth_layers)

    @property
    def alignment_state_indices(self) -> list[int]:
        """Entries of the hidden-state list that the alignment heads read, one each."""
        return self._state_indices(self.teacher_alignment_layers)

    def _state_indices(self, teacher_layers) -> list[int]:
        return map_teacher_layers(teacher_layers, self.teacher_num_layers, self.text_config.num_hidden_layers)
