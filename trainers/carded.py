"""What a trainer tells of its run: to the model's configuration, to the card, and to the Hub."""

from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedConfig

from geovr_hf.trainers.adapter_files import check_base_is_published


class Carded:
    """A mixin before a [`~transformers.Trainer`]: who teaches is written down, and the run's card goes to the Hub."""

    teacher: Any = None
    _teachers: Sequence[Any] = ()

    def learns_geometry(self) -> bool:
        """Whether geometric targets take part in the loss."""
        return bool(self.model.config.objectives)

    def train(self, *args, **kwargs) -> Any:
        """As in transformers. Before, configuration and card are told who sets the targets."""
        teachers = [] if self.teacher is None else [self.teacher]
        teachers = [*teachers, *data_teachers(self.train_dataset)] if self.learns_geometry() else []
        self._teachers = teachers
        record_teachers(self.model.config, teachers)
        for callback in self._card_writers():
            callback.teachers = teachers
        return super().train(*args, **kwargs)

    def call_model_init(self, trial: Any = None) -> Any:
        """As in transformers; a model that is made while training begins is told who teaches it, too."""
        model = super().call_model_init(trial)
        if self._teachers:
            record_teachers(model.config, self._teachers)
        return model

    def create_model_card(self, *args, **kwargs):
        """Write the card that a callback has collected from the run; without such a callback, the Trainer's own.

        `push_to_hub` calls this after everything else, and would otherwise replace the run's card by a stub.
        """
        writers = self._card_writers()
        if not writers:
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            writers[0].write(self.args.output_dir, model_id=self.hub_model_id)

    def init_hf_repo(self, *args, **kwargs):
        """As in transformers, before anything is pushed.

        Raises:
            ValueError: The model is an adapter, and its base is a local folder.
        """
        for adapter in getattr(self.model, "peft_config", {}).values():
            check_base_is_published(adapter.base_model_name_or_path, self.args.output_dir)
        super().init_hf_repo(*args, **kwargs)

    def _card_writers(self) -> list:
        return [callback for callback in self.callback_handler.callbacks if hasattr(callback, "write")]


def data_teachers(dataset: Any) -> list[Any]:
    """The teachers whose targets come with the clips of a data set, perhaps a joined or wrapped one."""
    if dataset is None:
        return []
    own = getattr(getattr(dataset, "decoder", None), "teacher", None)
    wrapped = [getattr(dataset, name, None) for name in ("rows", "dataset", "stream")]
    inside = [*getattr(dataset, "datasets", ()), *wrapped]
    return [*([] if own is None else [own]), *(teacher for part in inside for teacher in data_teachers(part))]


def record_teachers(config: PreTrainedConfig, teachers: Iterable[Any]) -> None:
    """Write into a model's configuration who teaches it, beside those who did before.

    Unlike a card, it comes along wherever the model is saved, trained on or exported from.

    Args:
        config ([`GeoVRConfig`]): The configuration, changed in place.
        teachers (`Iterable[Teacher]`): Each with its `spec`, and a `metric` if it has such a network.
    """
    networks = [
        network
        for teacher in teachers
        for network, always in ((getattr(teacher, "spec", None), True), (getattr(teacher, "metric", None), False))
        if network is not None and (always or network.non_commercial)
    ]
    before = [config.teacher] if isinstance(config.teacher, str) else config.teacher or ()
    names = list(dict.fromkeys([*before, *(network.name for network in networks)]))
    config.teacher = names if len(names) > 1 else next(iter(names), None)
