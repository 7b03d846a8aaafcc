"""Ask a trained model a question about a video.

The clip is sampled as for ordinary question answering, without geometry tokens; the answer is printed.

  geovr ask runs/my-model kitchen.mp4 "How many chairs are in this room?"
"""

import json
from argparse import ArgumentParser, Namespace

from geovr_hf.commands.checkpoints import (
    add_checkpoint_arguments,
    answer,
    load_checkpoint,
    read_video_argument,
)


TAKES_OVERRIDES = False


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `geovr ask`."""
    add_checkpoint_arguments(parser)
    parser.add_argument("question", help="the question, in quotes")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest answer, in tokens (default: 128)")
    parser.add_argument("--json", action="store_true", help="print question, answer and frame times as JSON")


def run(arguments: Namespace) -> None:
    """Print the answer."""
    if not arguments.question.strip():
        raise ValueError("The question is empty.")
    if arguments.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens must be at least 1, got {arguments.max_new_tokens}.")
    clip = read_video_argument(arguments)
    checkpoint = load_checkpoint(arguments.model, arguments.device, arguments.dtype, arguments.int8)
    text = answer(checkpoint, clip, arguments.question, arguments.max_new_tokens)
    if arguments.json:
        seconds = [round(time, 3) for time in clip.timestamps.tolist()]
        text = json.dumps({"question": arguments.question, "answer": text, "frame_seconds": seconds})
    print(text)
