"""Upload a checkpoint to the Hub: model, adapter or plain export, with processor, code and card.

It goes up in one commit. If the upload breaks off, the same command continues it.

  geovr push runs/my-model me/my-model --private
  geovr push runs/my-model me/my-model --results eval/card.json
  geovr push runs/my-lora me/my-lora --base-model Qwen/Qwen3-VL-2B-Instruct --revision v2
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path


TAKES_OVERRIDES = False


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `geovr push`."""
    parser.add_argument("folder", help="checkpoint folder")
    parser.add_argument("repo", help="id on the Hub, made if need be")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--revision", help="branch to push to, made if need be (default: main)")
    parser.add_argument("--license", help="licence to state, an id of the Hub's list")
    parser.add_argument("--base-model", metavar="ID", help="what was fine-tuned, an id on the Hub")
    parser.add_argument("--message", default="Upload checkpoint", help="title of the commit")
    parser.add_argument(
        "--results", metavar="FILE", help="evaluation results to add to the card first, e.g. DIR/card.json"
    )


def run(arguments: Namespace) -> None:
    """Push, and say where to."""
    from geovr_hf.checkpoints import push_checkpoint

    folder = Path(arguments.folder)
    if arguments.results is not None:
        from geovr_hf.checkpoints.cards import add_results
        from geovr_hf.hub_cards import read_records

        add_results(folder, read_records(arguments.results))
    address = push_checkpoint(
        folder,
        arguments.repo,
        private=arguments.private or None,
        revision=arguments.revision,
        license=arguments.license,
        base_model=arguments.base_model,
        message=arguments.message,
    )
    print(address)
