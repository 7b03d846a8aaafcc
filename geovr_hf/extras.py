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
        ImportError: It is not installed, or what is installed cannot be imported. The message says which, and what
            to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise  # of what it needs itself
        raise ImportError(f'{purpose}: pip install "geovr_hf[{extra}]"') from error
    except (ImportError, ValueError) as error:  # ValueError: built for another NumPy
        raise ImportError(
            f"{purpose}, and `{module}` is there but cannot be imported ({error}): pip install --upgrade "
            f'"geovr_hf[{extra}]"'
        ) from error
