"""Turn a checkpoint of the published GeoVR implementation into one of ours.

Every tensor is taken over, renamed or left out (teachers that were saved along) by name, and nothing else is accepted.
The output folder gets import_report.json, which lists every key; --list prints it.

  geovr import path/to/published --subfolder GeoVR-2B models/geovr-2b --processor Qwen/Qwen3-VL-2B-Instruct
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from geovr_hf.commands.checkpoints import add_source_arguments


TAKES_OVERRIDES = False


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `geovr import`."""
    parser.add_argument("model", help="published checkpoint: a folder or a Hub id")
    parser.add_argument("output", help="folder to make")
    add_source_arguments(parser)
    parser.add_argument("--teacher", help="teacher it was trained with (default: told by the sizes of its heads)")
    parser.add_argument(
        "--config", nargs="+", metavar="FIELD=VALUE", default=[], help="fields of GeoVRConfig that no weight shows"
    )
    parser.add_argument("--list", action="store_true", help="print every key and what became of it")


def run(arguments: Namespace) -> None:
    """Import, and account for the keys."""
    from geovr_hf.checkpoints import import_published

    report = import_published(
        arguments.model,
        arguments.output,
        subfolder=arguments.subfolder,
        revision=arguments.revision,
        processor=arguments.processor,
        teacher=arguments.teacher,
        config=parse_fields(arguments.config),
        progress=True,
    )
    if arguments.list:
        for tensor in report.tensors:
            print(f"{tensor.action:9}{tensor.published} {list(tensor.shape)} -> {tensor.name or '-'}")
    counts = ", ".join(f"{count} {action}" for action, count in report.counts().items())
    print(f"{len(report.tensors)} tensors: {counts}")
    if report.ignored_fields:
        print(f"Not taken over from its configuration: {', '.join(report.ignored_fields)}")
    print(f"Teacher {report.teacher or 'unknown'}. Saved to {arguments.output}")


def parse_fields(options: list[str]) -> dict[str, Any]:
    """Read `FIELD=VALUE` as YAML does.

    Raises:
        ValueError: naming an option of another form.
    """
    import yaml

    fields = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (equals and name.isidentifier()):
            raise ValueError(f"--config takes FIELD=VALUE, got {option!r}.")
        fields[name] = yaml.safe_load(value)
    return fields
