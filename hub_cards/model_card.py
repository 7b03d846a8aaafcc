"""The model card of a GeoVR checkpoint: its facts, and their rendering. A fact that is not known is left out."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from geovr_hf.hub_cards.card_file import save_card
from geovr_hf.hub_cards.evaluations import TASK, CardEvaluation, EvaluationRecord, index_metadata, record_sections
from geovr_hf.hub_cards.licence import TeacherFacts, licence_metadata, restricting
from geovr_hf.hub_cards.markdown import duration, loss_table, networks_table, plain, table


TEMPLATE = Path(__file__).with_name("geovr_model_card.jinja")

OBJECTIVE_DESCRIPTIONS = {
    "lm": "the answer, token by token",
    "camera": "each frame's translation, rotation and field of view, relative to the first frame",
    "depth": "each pixel's depth",
    "scale": "metres in one unit of the teacher",
    "alignment": "the teacher's features at four depths of the network",
}


@dataclass
class GeoVRModelCardData:
    """All a GeoVR model card tells. Every fact but `model_id` may be unknown, and is then not mentioned.

    **Licence rule** (`hub_cards/licence.py`). What was trained on the output of a non-commercial teacher or metric
    network is offered on its terms, and the card says so at its top. Otherwise `license` is the author's to choose.

    Args:
        model_id (`str`):
            Id on the Hub, or the name of the checkpoint folder. The code on the card loads it.
        base_model (`str`, *optional*):
            Id of the model that was fine-tuned.
        source (`str`, *optional*):
            Checkpoint that this one was converted from.
        is_adapter (`bool`, *optional*, defaults to `False`):
            Whether the checkpoint is a PEFT adapter, which is loaded onto its base model.
        license (`str`, *optional*):
            Licence of this checkpoint, an id of the Hub's list.
        language (`str`, *optional*):
            Code of the language of questions and answers.
        tags (`list[str]`, *optional*):
            Tags beside our own.
        datasets (`list[str]`, *optional*):
            Ids of the training sets on the Hub.
        training_data (`str`, *optional*):
            Readable description of the training data, Markdown.
        num_train_examples (`int`, *optional*):
            Number of training examples.
        num_frames (`int`, *optional*):
            Frames sampled from each clip in training.
        objectives (`dict[str, float]`, *optional*):
            Weight of each term of the loss, by its name: `lm`, `camera`, `depth`, `scale`, `alignment`.
        teacher (`TeacherFacts`, *optional*):
            The teacher that set the geometric targets; its `spec` will do, or a [`CardTeacher`].
        metric (`TeacherFacts`, *optional*):
            The network that said how long the teacher's unit is in metres.
        other_teachers (`list[TeacherFacts]`, *optional*):
            Further networks whose output went into it, such as those that taught its base model.
        trained_parameters (`dict[str, int]`, *optional*):
            Number of trained parameters of each part of the model.
        num_parameters (`int`, *optional*):
            Number of parameters of the whole model.
        hyperparameters (`dict[str, Any]`, *optional*):
            Training arguments by name.
        hardware (`str`, *optional*):
            What the training ran on.
        train_seconds (`float`, *optional*):
            How long it took.
        energy_kwh (`float`, *optional*):
            Energy that it took, in kWh.
        emissions_kg (`float`, *optional*):
            Carbon dioxide that this stands for, in kg.
        versions (`dict[str, str]`, *optional*):
            Versions of the libraries.
        log_history (`list[dict[str, Any]]`, *optional*):
            Log of the training as [`~transformers.TrainerState`] keeps it.
        evaluations (`list[CardEvaluation]`, *optional*):
            Results of evaluation during training, and others that are given metric by metric.
        results (`list[EvaluationRecord]`, *optional*):
            Results of benchmarks, each with the conditions it was measured under.
        images (`dict[str, str]`, *optional*):
            Captions of preview pictures by their path, relative to the card.
        limitations (`str`, *optional*):
            What a user must know before relying on the model, Markdown.

    Raises:
        ValueError: A `license` that the teacher does not allow, or an image path that leaves the card's folder. Raised
            by `render` and `save`.
    """

    model_id: str
    base_model: str | None = None
    source: str | None = None
    is_adapter: bool = False
    license: str | None = None
    language: str | None = None
    tags: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    training_data: str | None = None
    num_train_examples: int | None = None
    num_frames: int | None = None
    objectives: dict[str, float] = field(default_factory=dict)
    teacher: TeacherFacts | None = None
    metric: TeacherFacts | None = None
    other_teachers: list[TeacherFacts] = field(default_factory=list)
    trained_parameters: dict[str, int] = field(default_factory=dict)
    num_parameters: int | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    hardware: str | None = None
    train_seconds: float | None = None
    energy_kwh: float | None = None
    emissions_kg: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    log_history: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[CardEvaluation] = field(default_factory=list)
    results: list[EvaluationRecord] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    limitations: str | None = None

    def render(self) -> ModelCard:
        """Fill the template.

        Returns:
            [`~huggingface_hub.ModelCard`]: The card. `str(card)` is the text of `README.md`.
        """
        self._check()
        return ModelCard.from_template(
            self.metadata(),
            template_path=str(TEMPLATE),
            card=self,
            plain=plain,
            objectives_table=table(
                ["term", "what is predicted", "weight"],
                [[name, OBJECTIVE_DESCRIPTIONS.get(name), float(weight)] for name, weight in self.objectives.items()],
            ),
            parameters_table=table(["part", "trained parameters"], list(self.trained_parameters.items())),
            hyperparameters_table=table(["argument", "value"], list(self.hyperparameters.items())),
            losses_table=loss_table(self.log_history),
            predicts_geometry={"camera", "depth", "scale"} <= {*self.objectives},
            training_facts=self._training_facts(),
            restricting=restricting(self.networks),
            networks_table=networks_table(self.teacher, self.metric, self.other_teachers),
            record_sections=record_sections(self.results),
        )

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the card as `README.md`, and its facts beside it. See [`save_card`].

        Args:
            folder (`str` or `os.PathLike`): folder of the checkpoint; made if missing.

        Returns:
            `Path`: The card.
        """
        return save_card(self, folder)

    @property
    def networks(self) -> list[TeacherFacts]:
        """All whose output the model was trained on."""
        return [network for network in (self.teacher, self.metric, *self.other_teachers) if network is not None]

    def metadata(self) -> ModelCardData:
        """The card's front matter, the part the Hub reads."""
        relation = "adapter" if self.is_adapter else "finetune"
        return ModelCardData(
            language=self.language,
            library_name="peft" if self.is_adapter else "transformers",
            pipeline_tag=TASK,
            base_model=self.base_model,
            base_model_relation=relation if self.base_model else None,
            datasets=self.datasets or None,
            tags=["geovr", "spatial-reasoning", *self.tags],
            co2_eq_emissions=self._emissions(),
            **index_metadata(self.model_id, self.evaluations, self.results),
            **licence_metadata(self.networks, self.license),
        )

    def _emissions(self) -> dict[str, Any] | None:
        if self.emissions_kg is None:
            return None
        facts = {
            "emissions": round(1000 * self.emissions_kg, 3),  # the Hub wants grams
            "source": "CodeCarbon",
            "training_type": "fine-tuning",
            "hardware_used": self.hardware,
        }
        return {name: fact for name, fact in facts.items() if fact is not None}

    def _check(self) -> None:
        for path in map(Path, self.images):
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"Image {str(path)!r} must lie in the card's folder: give its path relative to it.")

    def _training_facts(self) -> list[str]:
        versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in self.versions.items())
        trained = sum(self.trained_parameters.values())
        share = f" of {plain(self.num_parameters)}" if self.num_parameters else ""
        facts = {
            "Trained parameters": f"{plain(trained)}{share}" if trained else None,
            "Hardware": self.hardware and plain(self.hardware),
            "Time": duration(self.train_seconds) if self.train_seconds is not None else None,
            "Energy": self._energy(),
            "Versions": versions,
        }
        return [f"{name}: {fact}" for name, fact in facts.items() if fact]

    def _energy(self) -> str | None:
        if self.energy_kwh is None:
            return None
        emissions = "" if self.emissions_kg is None else f", {plain(self.emissions_kg)} kg of carbon dioxide"
        return f"{plain(float(self.energy_kwh))} kWh{emissions}, as CodeCarbon measured"
