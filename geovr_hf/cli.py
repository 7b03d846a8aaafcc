"""The `geovr` command: its subcommands are those of `COMMANDS`.

Only the parsing is here. Each subcommand is a module of `geovr_hf.commands` with `add_arguments(parser)` and
`run(arguments)`; what it needs beyond argparse it imports when it runs, so that `--help` stays quick.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from huggingface_hub.errors import StrictDataclassError

from geovr_hf.commands import (
    ask,
    demo,
    evaluate,
    export,
    grpo,
    import_published,
    launch_config,
    precompute,
    push,
    reconstruct,
    train,
)


EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
COMMANDS = {
    "train": train,
    "grpo": grpo,
    "precompute": precompute,
    "demo": demo,
    "ask": ask,
    "reconstruct": reconstruct,
    "evaluate": evaluate,
    "export": export,
    "import": import_published,
    "push": push,
    "launch-config": launch_config,
}


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    parser = argparse.ArgumentParser(
        prog="geovr", description="Train a video MLLM on geometry, ask it about videos, reconstruct what it saw."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary, _, details = command.__doc__.partition("\n")
        subparser = subparsers.add_parser(
            name,
            parents=[common],
            help=summary,
            description=f"{summary}\n{details}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # an abbreviated option could be meant as a recipe override
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, overrides=None)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for an error of the user, 130 when interrupted.

    Args:
        argv (`Sequence[str]`, *optional*): arguments; by default those of the process.
    """
    parser = build_parser()
    arguments, extra = parser.parse_known_args(argv)
    if extra and not COMMANDS[arguments.command].TAKES_OVERRIDES:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    arguments.overrides = extra
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    # What a wrong path, option, clip or a missing extra raises, and a configuration that contradicts itself
    # (`StrictDataclassError` is no ValueError). Anything else is a defect and keeps its traceback.
    except (ValueError, OSError, ImportError, StrictDataclassError) as error:
        if arguments.debug:
            raise
        print(f"geovr {arguments.command}: {without_traceback(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def without_traceback(message: str) -> str:
    """What went wrong, without the traceback that torch writes around the error of a `DataLoader`'s worker."""
    if "Original Traceback (most recent call last):\n" not in message:
        return message
    # Of errors that follow from one another, the last one is raised. Its name stands past the indented frames.
    last = message.rpartition("Traceback (most recent call last):\n")[2]
    raised = re.match(r"(?: .*\n)*[\w.]+: (.+)", last, re.DOTALL)
    return raised[1].strip() if raised else message


if __name__ == "__main__":
    sys.exit(main())
