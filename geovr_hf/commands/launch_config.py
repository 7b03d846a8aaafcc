"""Print where a configuration of accelerate for several GPUs lies.

  accelerate launch --config_file "$(geovr launch-config fsdp2)" --num_processes 8 -m geovr_hf.cli train my-recipe.yaml

docs/multi-gpu.md says which to take.
"""

from argparse import ArgumentParser, Namespace

from geovr_hf.launch_configs import LAUNCH_CONFIGS, launch_config


TAKES_OVERRIDES = False


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `geovr launch-config`."""
    parser.add_argument("name", choices=LAUNCH_CONFIGS, help="how the model is spread over the GPUs")


def run(arguments: Namespace) -> None:
    """Print the path."""
    print(launch_config(arguments.name))
