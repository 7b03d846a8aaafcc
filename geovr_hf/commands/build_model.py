"""From a recipe to the model and processor that it trains."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import cached_file, find_adapter_config_file

from geovr_hf.modeling import GeoVRConfig, GeoVRForConditionalGeneration, GeoVRProcessor
from geovr_hf.recipe import TINY, ModelSection, ProcessorSection
from geovr_hf.teachers import TeacherSpec
from geovr_hf.teachers.layout import teacher_layout
from geovr_hf.tiny import make_tiny_config, make_tiny_model, make_tiny_processor


def build_processor(model: ModelSection, processor: ProcessorSection, texts: Iterable[str]) -> GeoVRProcessor:
    """Make or load the processor.

    Args:
        model ([`ModelSection`]): tells whether it is the tiny one or a checkpoint's.
        processor ([`ProcessorSection`]): how large frames may be; saved with the processor.
        texts (`Iterable[str]`): what a tiny tokenizer learns its words from; a checkpoint's ignores them.

    Raises:
        OSError: if there is no such checkpoint.
    """
    if model.base == TINY:
        made = make_tiny_processor(texts)
        # One frame to a temporal patch: the tiny model has never seen pairs, and so sees a clip alike in training,
        # where geometry tokens keep frames apart, and in ordinary answering.
        made.image_processor.temporal_patch_size = made.video_processor.temporal_patch_size = 1
    else:
        made = GeoVRProcessor.from_pretrained(model.base)
    limits = {"shortest_edge": processor.min_clip_pixels, "longest_edge": processor.max_clip_pixels}
    size = made.video_processor.size
    made.video_processor.size = {edge: size[edge] if limit is None else limit for edge, limit in limits.items()}
    return made


def learnt_objectives(section: ModelSection) -> Sequence[str]:
    """The geometric objectives of the model that a recipe trains, without loading it.

    They are the recipe's or, where it says nothing, those that a GeoVR checkpoint or an adapter's model has already.

    Raises:
        OSError: if there is no such checkpoint.
    """
    if "objectives" in section.config:
        return section.config["objectives"]
    base = None if section.base == TINY else checkpoint_config(section.base)
    return getattr(base, "objectives", GeoVRConfig.objectives)


def checkpoint_config(base: str) -> PreTrainedConfig:
    """The configuration of a checkpoint or, of an adapter, that of the model it is loaded onto.

    Raises:
        OSError: if there is no such checkpoint.
    """
    if find_adapter_config_file(base) is None:
        return AutoConfig.from_pretrained(base)
    from peft import PeftConfig

    from geovr_hf.trainers.adapter_files import ADAPTED_CONFIG_NAME

    written = cached_file(base, ADAPTED_CONFIG_NAME, _raise_exceptions_for_missing_entries=False)
    if written is not None:
        return GeoVRConfig.from_json_file(written)
    adapter = PeftConfig.from_pretrained(base)
    if not adapter.base_model_name_or_path:  # `load_peft_model` says what is wrong
        return GeoVRConfig()
    return AutoConfig.from_pretrained(adapter.base_model_name_or_path, revision=adapter.revision)


def build_model(
    section: ModelSection,
    processor: GeoVRProcessor,
    teacher: TeacherSpec | None,
    seed: int = 0,
    learns_geometry: bool = True,
) -> GeoVRForConditionalGeneration:
    """Make or load the model.

    A model without geometric heads, plain Qwen3-VL or tiny, gets heads of the teacher's layout, freshly initialised
    from `seed`; transformers reports which. A GeoVR checkpoint keeps the layout that its heads have. An adapter is
    loaded onto its base, to be trained further.

    Args:
        section ([`ModelSection`]): what to build.
        processor ([`GeoVRProcessor`]): gives a tiny model its vocabulary.
        teacher ([`TeacherSpec`], *optional*): who sets the targets.
        seed (`int`, *optional*, defaults to 0): of all random weights.
        learns_geometry (`bool`, *optional*, defaults to `True`): whether every objective needs targets. Without, a
            plain checkpoint gets no heads, which would stay random.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if the recipe asks for an objective that its teacher sets no target for, a value of `model.config`
            is none, or the checkpoint's heads were made for a teacher of another layout.
    """
    if section.base == TINY:
        options = teacher_layout(teacher) | section.tiny | section.config
        with naming_model_config():
            config = make_tiny_config(processor, **options)
        config.vision_config.temporal_patch_size = processor.video_processor.temporal_patch_size
        check_objectives(config.objectives if learns_geometry else (), teacher)
        return make_tiny_model(config, processor, seed).to(getattr(torch, section.dtype))
    options = {"dtype": getattr(torch, section.dtype), "attn_implementation": section.attn_implementation}
    if section.load_in_4bit:
        from geovr_hf.trainers import geovr_4bit_config

        options["quantization_config"] = geovr_4bit_config()
    if find_adapter_config_file(section.base) is not None:
        from geovr_hf.trainers import load_peft_model

        model = load_peft_model(section.base, is_trainable=True, **options)
        changed = [name for name, value in section.config.items() if getattr(model.config, name) != value]
        if changed:
            raise ValueError(
                f"`model.base: {section.base}` is an adapter, whose model has its configuration already. Take "
                f"{', '.join(changed)} out of `model.config`."
            )
        check_objectives(model.config.objectives if learns_geometry else (), teacher)
        check_layout(section.base, model.config, teacher if learns_geometry else None)
        return model
    base = AutoConfig.from_pretrained(section.base)
    layout = {}
    has_heads = base.model_type == GeoVRConfig.model_type
    if not has_heads:
        layout = teacher_layout(teacher) if learns_geometry else {"objectives": []}
    with naming_model_config():
        config = GeoVRConfig.from_pretrained(section.base, **(layout | section.config))
        config.validate()  # of options that are set one by one, transformers checks the types alone
    check_objectives(config.objectives if learns_geometry else (), teacher)
    check_layout(section.base, config, teacher if has_heads and learns_geometry else None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GeoVRForConditionalGeneration.from_pretrained(section.base, config=config, **options)


@contextmanager
def naming_model_config() -> Iterator[None]:
    """Say where a value of a configuration comes from, by an error that is a `ValueError`, as transformers' is not."""
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(f"`model.config`: {error.__cause__ or error}") from error


def check_layout(base: str, config: GeoVRConfig, teacher: TeacherSpec | None) -> None:
    """Refuse a teacher whose depth or features the heads of a checkpoint cannot be compared with.

    Raises:
        ValueError: naming both teachers and the cure.
    """
    if teacher is None:
        return
    unlike = {}
    # A ground truth looks at no images of its own size: its depth is as large as the recipe says, which may fit.
    tile = teacher.patch_size * teacher.pool_size
    if "depth" in config.objectives and teacher.image_rule is not None and tile % config.depth_tile:
        unlike["depth"] = f"depth in tiles of {config.depth_tile} pixels, not {tile}"
    layers, channels = len(config.teacher_alignment_layers), config.teacher_hidden_size
    given = len(teacher.alignment_layers), teacher.hidden_size
    if "alignment" in config.objectives and teacher.alignment_layers and (layers, channels) != given:
        unlike["alignment"] = f"{layers} layers of {channels} channels, not {given[0]} of {given[1]}"
    if unlike:
        names = [config.teacher] if isinstance(config.teacher, str) else config.teacher or ["an unnamed one"]
        rest = [name for name in config.objectives if name not in unlike]
        raise ValueError(
            f"The heads of `model.base: {base}` have the layout of another teacher, {names[0]}, than the recipe's, "
            f"{teacher.name}: {'; '.join(unlike.values())}. Take a teacher of their layout, or start from plain "
            f"Qwen3-VL, which gets heads for yours, or set `model.config.objectives: [{', '.join(rest)}]`."
        )


def check_objectives(objectives: Iterable[str], teacher: TeacherSpec | None) -> None:
    """Refuse objectives that would never see a target.

    Raises:
        ValueError: naming the objectives and the option that cures it.
    """
    if teacher is None:
        impossible = list(objectives)
    else:
        impossible = [name for name in objectives if name == "alignment" and not teacher.alignment_layers]
    if impossible:
        source = "No source of the recipe" if teacher is None else f"The teacher `{teacher.name}`"
        rest = [name for name in objectives if name not in impossible]
        raise ValueError(
            f"{source} sets targets for {', '.join(impossible)}. Set `model.config.objectives: [{', '.join(rest)}]`, "
            "or choose data and a teacher that do."
        )
