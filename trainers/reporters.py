"""What a run reports to: looked for before the model is loaded."""

from collections.abc import Iterable

from transformers.integrations import get_available_reporting_integrations


# Of transformers' integrations, those whose package has the same name.
REPORTERS = {"clearml", "codecarbon", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"}


def check_reporters(names: Iterable[str]) -> None:
    """Check that what a run reports to is installed: transformers finds out once the model is loaded.

    Args:
        names (`Iterable[str]`): Those of `report_to`.

    Raises:
        ImportError: One is not. The message says how to install it.
    """
    for name in sorted({*names} & REPORTERS - {*get_available_reporting_integrations()}):
        raise ImportError(f"`report_to` names {name}, which is not installed: pip install {name}")
