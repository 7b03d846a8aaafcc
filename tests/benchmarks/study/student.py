"""The student: Qwen3-VL's architecture from random weights, with a tokenizer made of the questions themselves."""

from geovr_hf.data.rooms import FeatureSpec
from geovr_hf.modeling import GeoVRForConditionalGeneration, GeoVRProcessor
from geovr_hf.teachers import load_teacher
from geovr_hf.teachers.layout import teacher_layout
from geovr_hf.tiny import make_tiny_config, make_tiny_model, make_tiny_processor

from .settings import ARMS, Study
from .shards import StoredRooms


TEXTS = 2000


def make_processor(study: Study, rooms: StoredRooms) -> GeoVRProcessor:
    """A processor whose tokenizer knows the words of the first training questions."""
    texts = [text for asked in rooms.asked[:TEXTS] for one in asked for text in (one["prompt"], one["answer"])]
    texts += [f"<{tenth / 10:.1f} seconds>" for tenth in range(300)]
    processor = make_tiny_processor(texts, study.vocab_size)
    # One frame to a temporal patch, with and without geometry tokens: nothing has ever seen pairs of frames.
    processor.image_processor.temporal_patch_size = processor.video_processor.temporal_patch_size = 1
    return processor


def make_student(study: Study, arm: str, seed: int, processor: GeoVRProcessor) -> GeoVRForConditionalGeneration:
    """The student of an arm. For one seed, all arms start from the same backbone; only their heads differ."""
    backbone = _make(study, (), seed, processor)
    if not ARMS[arm]:
        return backbone
    student = _make(study, ARMS[arm], seed, processor)
    outcome = student.load_state_dict(backbone.state_dict(), strict=False)
    if outcome.unexpected_keys or any("head" not in name for name in outcome.missing_keys):
        raise RuntimeError(f"The arms' backbones differ: {outcome}")
    return student


def _make(study: Study, objectives: tuple[str, ...], seed: int, processor: GeoVRProcessor):
    layout = teacher_layout(load_teacher("synthetic", features=FeatureSpec()).spec)
    options = layout | study.student | {"depth_hidden_sizes": list(study.depth_hidden_sizes)}
    config = make_tiny_config(processor, **options, objectives=list(objectives))
    vision = config.vision_config
    vision.temporal_patch_size = 1
    if vision.hidden_size >= 128:
        vision.num_heads = vision.hidden_size // 64
    # DeepStack takes three states that are spread over the tower.
    vision.deepstack_visual_indexes = [round((place + 1) * vision.depth / 3) - 1 for place in range(3)]
    return make_tiny_model(config, processor, seed)
