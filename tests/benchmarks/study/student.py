"""The student: Qwen3-VL's architecture from random weights, with a tokenizer made of the rooms' own words."""

from pathlib import Path

from safetensors.torch import load_file

from geovr_hf.modeling import GeoVRConfig, GeoVRForConditionalGeneration, GeoVRProcessor
from geovr_hf.teachers import load_teacher
from geovr_hf.teachers.layout import teacher_layout
from geovr_hf.tiny import make_tiny_config, make_tiny_model, make_tiny_processor

from .rooms import NAMING, StoredRooms, words_of
from .settings import ARMS, GEOMETRY_WEIGHTS, MERGE, Study


TEXTS = 1000  # rooms


def make_processor(study: Study, data: Path) -> GeoVRProcessor:
    """A processor whose tokenizer knows the words of the warm-up rooms, where every word occurs."""
    rooms = StoredRooms(data / "warm-up", TEXTS)
    pictures = StoredRooms(data / "warm-up", TEXTS, about=("flat",))
    texts = [f"<{tenth / 10:.1f} seconds>" for tenth in range(0, 100, 5)] * TEXTS + [NAMING] * TEXTS
    for room in range(rooms.num_rooms):
        texts += [words_of(asked) for asked in [*rooms.asked(room), *pictures.asked(room)]]
        texts.append("\n".join(rooms.names(room)))
    processor = make_tiny_processor(texts, study.vocab_size)
    for part in (processor.image_processor, processor.video_processor):
        part.patch_size = study.patch_size
        part.temporal_patch_size = 1  # a frame to a temporal patch: nothing has ever seen pairs of frames
    return processor


def make_student(
    study: Study, arm: str, seed: int, processor: GeoVRProcessor, start: Path | None = None
) -> GeoVRForConditionalGeneration:
    """The student with heads for the objectives of an arm.

    Args:
        study ([`Study`]): The settings.
        arm (`str`): One of `ARMS`.
        seed (`int`): Of the weights.
        processor ([`GeoVRProcessor`]): Its processor.
        start (`Path`, *optional*): Folder of the warmed-up backbone, which replaces the one of the seed.

    Raises:
        RuntimeError: The warmed-up backbone is of another shape.
    """
    student = _random_student(study, arm, seed, processor)
    if start is not None:
        outcome = student.load_state_dict(load_file(start / "model.safetensors"), strict=False)
        if outcome.unexpected_keys or any("head" not in name for name in outcome.missing_keys):
            raise RuntimeError(f"{start} holds another backbone than the study's: {outcome}")
    return student


def _random_student(study: Study, arm: str, seed: int, processor: GeoVRProcessor) -> GeoVRForConditionalGeneration:
    layout = teacher_layout(load_teacher("synthetic", features=study.features).spec)
    layout["teacher_patch_size"] = study.depth_tile // MERGE
    options = layout | study.student | {"depth_hidden_sizes": list(study.depth_hidden_sizes)}
    for name, factor in GEOMETRY_WEIGHTS.get(arm, {}).items():
        options[f"{name}_loss_weight"] = factor * getattr(GeoVRConfig, f"{name}_loss_weight")
    config = make_tiny_config(processor, **options, objectives=list(objectives_of(arm)))
    vision = config.vision_config
    vision.temporal_patch_size, vision.patch_size = 1, study.patch_size
    vision.num_position_embeddings = 256
    if vision.hidden_size >= 128:
        vision.num_heads = vision.hidden_size // 64
    # DeepStack takes three states that are spread over the tower.
    vision.deepstack_visual_indexes = [round((place + 1) * vision.depth / 3) - 1 for place in range(3)]
    return make_tiny_model(config, processor, seed)


def objectives_of(arm: str) -> tuple[str, ...]:
    """Objectives of an arm beside language.

    Raises:
        ValueError: There is no such arm.
    """
    if arm not in ARMS:
        raise ValueError(f"There is no arm {arm!r}. Choose from {', '.join(ARMS)}.")
    return ARMS[arm]
