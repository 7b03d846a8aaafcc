"""Opening a checkpoint for inference, and putting a clip in front of it."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from geovr_hf.checkpoints.adapters import is_adapter, load_merged
from geovr_hf.checkpoints.folder import fetch_checkpoint
from geovr_hf.data.clip import Clip


class Checkpoint(NamedTuple):
    """A model in evaluation mode and the processor saved beside it."""

    model: torch.nn.Module
    processor: object


def add_checkpoint_arguments(parser: ArgumentParser) -> None:
    """Add what every command that runs a checkpoint on a video takes."""
    parser.add_argument("model", help="GeoVR checkpoint: a folder or a Hub id")
    parser.add_argument("video", help="video file, or folder of images")
    sampling = parser.add_argument_group("frames")
    sampling.add_argument("--frames", type=int, metavar="N", help="number of evenly spread frames")
    sampling.add_argument("--fps", type=float, help="frames per second instead (default: 2, 4 to 32 frames)")
    sampling.add_argument("--image-rate", type=float, default=1.0, help="images per second of a folder (default: 1)")
    device = parser.add_argument_group("device")
    device.add_argument("--device", help="cpu, cuda, cuda:1, mps, … (default: cuda if there is one)")
    device.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="default: the checkpoint's"
    )
    device.add_argument("--int8", action="store_true", help="language model with int8 weights; needs torchao")


def add_source_arguments(parser: ArgumentParser) -> None:
    """Add what every command takes that converts a checkpoint."""
    source = parser.add_argument_group("source")
    source.add_argument("--subfolder", help="folder of the checkpoint inside it")
    source.add_argument("--revision", help="branch, tag or commit on the Hub")
    source.add_argument("--processor", metavar="SOURCE", help="where the processor is, if not beside the model")


def read_video_argument(arguments: Namespace) -> Clip:
    """Read the clip that the command line names.

    Raises:
        ValueError: if the video is missing or unreadable, the sampling contradicts itself, or the images' rate is not
            positive.
    """
    from geovr_hf.data import read_clip
    from geovr_hf.data.images import check_image_rate

    if not Path(arguments.video).exists():
        raise ValueError(f"No such video: {arguments.video}")
    rate = check_image_rate(arguments.image_rate, "--image-rate")
    return read_clip(arguments.video, num_frames=arguments.frames, fps=arguments.fps, image_rate=rate)


def load_checkpoint(name: str, device: str | None = None, dtype: str = "auto", int8: bool = False) -> Checkpoint:
    """Load a GeoVR checkpoint and its processor for inference.

    Args:
        name (`str`): folder or Hub id of a model, or of an adapter, which is merged into its base.
        device (`str`, *optional*): where to put the model; by default the first CUDA device, else the CPU.
        dtype (`str`, *optional*, defaults to `"auto"`): name of a torch dtype, or `"auto"` for the checkpoint's own.
        int8 (`bool`, *optional*, defaults to `False`): keep the language model's weights in int8, by torchao.

    Raises:
        ImportError: if int8 weights are asked for and torchao is not installed.
        ValueError: if there is no such device or checkpoint, it is of another kind than GeoVR, or int8 weights are
            asked for an adapter.
    """
    device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not Path(name).is_dir():
        name = str(fetch_checkpoint(name))
    if is_adapter(name) and int8:
        raise ValueError(f"{name} is an adapter. Merge it first (docs/fine-tuning.md): int8 weights cannot be merged.")
    if is_adapter(name):
        model = load_merged(name, dtype)
    else:
        config = AutoConfig.from_pretrained(name)
        if config.model_type != "geovr":
            raise ValueError(
                f"{name} is a `{config.model_type}` checkpoint, not a GeoVR one: it has no geometric heads. "
                "Train it first with `geovr train`."
            )
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **_quantization(int8))
    model.to(device)
    return Checkpoint(model.eval(), AutoProcessor.from_pretrained(name))


def _usable(device: str) -> str:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a name unknown to torch, or nothing of that name in this machine
        raise ValueError(
            f"--device {device} cannot be used here: {str(error).partition(chr(10))[0]}. Take cpu, or leave it out."
        ) from error
    return device


def _quantization(int8: bool) -> dict:
    if not int8:
        return {}
    from geovr_hf.trainers import geovr_int8_config

    try:
        return {"quantization_config": geovr_int8_config()}
    except ImportError as error:
        raise ImportError("--int8 needs torchao: pip install torchao") from error


def clip_inputs(checkpoint: Checkpoint, clip: Clip, question: str | None = None, geometry_tokens: bool = False):
    """Turn a clip, and a question if there is one, into the model's inputs on the model's device.

    Args:
        checkpoint (`Checkpoint`): model and processor.
        clip (`Clip`): the frames.
        question (`str`, *optional*): text after the clip; with it the prompt ends where the answer starts.
        geometry_tokens (`bool`, *optional*, defaults to `False`): whether to close frames with geometry tokens, which
            the geometric heads read.

    Returns:
        [`~transformers.BatchFeature`]: The inputs.
    """
    content = [clip.content()]
    if question is not None:
        content.append({"type": "text", "text": question})
    text = checkpoint.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=question is not None
    )
    inputs = checkpoint.processor(
        text=[text],
        videos=[clip.frames],
        video_timestamps=[clip.timestamps.tolist()],
        geometry_tokens=geometry_tokens,
        return_tensors="pt",
    )
    return inputs.to(checkpoint.model.device)


@torch.inference_mode()
def answer(checkpoint: Checkpoint, clip: Clip, question: str, max_new_tokens: int = 64) -> str:
    """Answer a question about a clip, greedily and without geometry tokens, as the published evaluation asks."""
    inputs = clip_inputs(checkpoint, clip, question)
    generated = checkpoint.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new_tokens = generated[0, inputs["input_ids"].shape[1] :]
    return checkpoint.processor.decode(new_tokens, skip_special_tokens=True).strip()
