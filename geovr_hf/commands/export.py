"""Write a checkpoint's backbone as plain Qwen3-VL, for vLLM, SGLang, lmms-eval, llama.cpp and the like.

Heads and geometry tokens are left out: answering questions needs neither. An adapter is merged into its base first.

  geovr export runs/my-model plain/my-model --to qwen3_vl
"""

import sys
from argparse import ArgumentParser, Namespace

from geovr_hf.commands.checkpoints import add_source_arguments


TAKES_OVERRIDES = False


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `geovr export`."""
    parser.add_argument("model", help="GeoVR checkpoint or adapter: a folder or a Hub id")
    parser.add_argument("output", help="folder to make")
    parser.add_argument("--to", choices=("qwen3_vl",), default="qwen3_vl", help="what to write (default: qwen3_vl)")
    add_source_arguments(parser)


def run(arguments: Namespace) -> None:
    """Export, and tell what was left out."""
    from geovr_hf.checkpoints import export_qwen3_vl
    from geovr_hf.hub_cards.markdown import byte_size

    report = export_qwen3_vl(
        arguments.model,
        arguments.output,
        revision=arguments.revision,
        subfolder=arguments.subfolder,
        processor=arguments.processor,
        progress=True,
    )
    if report.merged_adapter:
        print("Merged the adapter into its base.")
    print(f"Left out {len(report.removed)} tensors of heads and geometry tokens.")
    if report.kept_tokens:
        print(
            f"The tokenizer keeps {', '.join(report.kept_tokens)}: tokens were added after them, and would move.",
            file=sys.stderr,
        )
    print(f"Saved {len(report.kept)} tensors, {byte_size(report.num_bytes)}, to {arguments.output}")
