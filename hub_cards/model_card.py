"""The model card of a GeoVR checkpoint: its facts, and their rendering. A fact that is not known is left out."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from geovr_hf.hub_cards.card_file import write_card
from geovr_hf.hub_cards.licence import TeacherFacts, licence_metadata
from geovr_hf.hub_cards.markdown import duration, loss_table, plain, table


TEMPLATE = Path(__file__).with_name("geovr_model_card.jinja")
TASK = "video-text-to-text"

OBJECTIVE_DESCRIPTIONS = {
    "lm": "the answer, token by token",
    "camera": "each frame's translation, rotation and field of view, relative to the first frame",
    "depth": "each pixel's depth",
    "scale": "metres in one unit of the teacher",
    "alignment": "the teacher's features at four depths of the network",
}
LOWER_IS_BETTER = ("loss", "error", "abs_rel", "ratio")
HIGHER_IS_BETTER = ("accuracy", "delta")


@dataclass
class CardEvaluation:
    """Results on one evaluation set.

    Args:
        metrics (`dict[str, float]`):
            This model's results by metric name.
        dataset_name (`str`, *optional*):
            Readable name of the set. Results on a named set also enter the card's `model-index`.
        dataset_id (`str`, *optional*):
            Id of the set on the Hub; defaults to the name.
        split (`str`, *optional*):
            Split of the set.
        num_examples (`int`, *optional*):
            Number of questions or clips.
        references (`dict[str, dict[str, float]]`, *optional*):
            Results to compare with, by column title, e.g. `{"before training": {...}, "blind guesser": {...}}`.
    """

    metrics: dict[str, float]
    dataset_name: str | None = None
    dataset_id: str | None = None
    split: str | None = None
    num_examples: int | None = None
    references: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name, split and size of the set, as far as they are known."""
        parts = [
            plain(self.dataset_name or "Evaluation set of the training run"),
            self.split and f"split {plain(self.split)}",
            self.num_examples and f"{plain(self.num_examples)} examples",
        ]
        return ", ".join(part for part in parts if part)

    @property
    def table(self) -> str:
        """The results as a Markdown table, references beside them."""
        return table(
            ["metric", "this model", *self.references],
            [
                [f"{name}{_arrow(name)}", value, *(reference.get(name) for reference in self.references.values())]
                for name, value in self.metrics.items()
            ],
        )

    def eval_results(self) -> list[EvalResult]:
        """The results as entries of the card's `model-index`: none for a set without a name."""
        if self.dataset_name is None:
            return []
        return [
            EvalResult(
                task_type=TASK,
                dataset_type=self.dataset_id or self.dataset_name,
                dataset_name=self.dataset_name,
                dataset_split=self.split,
                metric_type=name,
                metric_value=value,
            )
            for name, value in self.metrics.items()
        ]


def _arrow(metric: str) -> str:
    """The direction in which a metric gets better, where its name tells."""
    if any(word in metric for word in LOWER_IS_BETTER):
        return " ↓"
    return " ↑" if any(word in metric for word in HIGHER_IS_BETTER) else ""


@dataclass
class GeoVRModelCardData:
    """All a GeoVR model card tells. Every fact but `model_id` may be unknown, and is then not mentioned.

    **Licence rule** (`hub_cards/licence.py`). What was trained on a non-commercial teacher's output is offered on the
    teacher's terms, and the card says so at its top. Otherwise `license` is the author's to choose.

    Args:
        model_id (`str`):
            Id on the Hub, or the name of the checkpoint folder. The code on the card loads it.
        base_model (`str`, *optional*):
            Id of the model that was fine-tuned.
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
            The teacher that set the geometric targets; its `spec` will do.
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
        versions (`dict[str, str]`, *optional*):
            Versions of the libraries.
        log_history (`list[dict[str, Any]]`, *optional*):
            Log of the training as [`~transformers.TrainerState`] keeps it.
        evaluations (`list[CardEvaluation]`, *optional*):
            Results.
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
    trained_parameters: dict[str, int] = field(default_factory=dict)
    num_parameters: int | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    hardware: str | None = None
    train_seconds: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    log_history: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[CardEvaluation] = field(default_factory=list)
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
        )

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the card as `README.md`, in one step: a reader sees the old card or the new one, never half of it.

        Args:
            folder (`str` or `os.PathLike`): folder of the checkpoint; made if missing.

        Returns:
            `Path`: The file written.
        """
        return write_card(self.render(), folder)

    def metadata(self) -> ModelCardData:
        """The card's front matter, the part the Hub reads."""
        results = [result for evaluation in self.evaluations for result in evaluation.eval_results()]
        relation = "adapter" if self.is_adapter else "finetune"
        return ModelCardData(
            language=self.language,
            library_name="peft" if self.is_adapter else "transformers",
            pipeline_tag=TASK,
            base_model=self.base_model,
            base_model_relation=relation if self.base_model else None,
            datasets=self.datasets or None,
            tags=["geovr", "spatial-reasoning", *self.tags],
            metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
            model_name=self.model_id.split("/")[-1] if results else None,
            eval_results=results or None,
            **licence_metadata([self.teacher] if self.teacher else [], self.license),
        )

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
            "Versions": versions,
        }
        return [f"{name}: {fact}" for name, fact in facts.items() if fact]
