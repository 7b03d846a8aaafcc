"""Libraries that come with an extra of the package."""

from importlib import import_module
from types import ModuleType


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a library that the package can do without.

    Args:
        module (`str`): Its name.
        extra (`str`): The extra of `geovr_hf` that brings it.
        purpose (`str`): What needs it, as a sentence: "Figures need matplotlib".

    Raises:
        ImportError: It is not installed. The message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'{purpose}: pip install "geovr_hf[{extra}]"') from error
