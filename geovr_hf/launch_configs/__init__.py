"""Configuration files of accelerate that come with the package: `accelerate launch --config_file`."""

from pathlib import Path


LAUNCH_CONFIGS = ("ddp", "fsdp2", "zero2", "zero3")


def launch_config(name: str) -> Path:
    """Find a configuration file.

    Args:
        name (`str`): `"ddp"`, `"fsdp2"`, `"zero2"` or `"zero3"`.

    Returns:
        `Path`: The file, as `accelerate launch --config_file` takes it.

    Raises:
        ValueError: There is no such configuration.
    """
    if name not in LAUNCH_CONFIGS:
        raise ValueError(f"There is no launch configuration {name!r}. Choose one of {', '.join(LAUNCH_CONFIGS)}.")
    return Path(__file__).with_name(f"{name}.yaml")
