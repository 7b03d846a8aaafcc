"""The card of a plain Qwen3-VL checkpoint that was exported from a GeoVR one."""

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from geovr_hf.hub_cards.card_file import save_card
from geovr_hf.hub_cards.evaluations import TASK, EvaluationRecord, index_metadata, record_sections
from geovr_hf.hub_cards.licence import TeacherFacts, licence_metadata, restricting
from geovr_hf.hub_cards.markdown import networks_table, plain
from geovr_hf.hub_cards.model_card import GeoVRModelCardData


TEMPLATE = Path(__file__).with_name("geovr_export_card.jinja")


@dataclass
class GeoVRExportCardData:
    """All that the card of a plain export tells. Every fact but `model_id` may be unknown, and is then not mentioned.

    The licence rule is that of [`GeoVRModelCardData`]: an export was trained on the same targets.

    Args:
        model_id (`str`):
            Id on the Hub, or the name of the checkpoint folder. The code on the card loads it.
        source (`str`, *optional*):
            The GeoVR checkpoint that it was exported from: an id of the Hub, or a name.
        base_model (`str`, *optional*):
            Id of the model that the source was fine-tuned from.
        license (`str`, *optional*):
            Licence of the checkpoint, an id of the Hub's list.
        license_name (`str`, *optional*):
            Its name, where the list has no id and `license` is `"other"`.
        language (`str`, *optional*):
            Code of the language of questions and answers.
        datasets (`list[str]`, *optional*):
            Ids of the training sets on the Hub.
        teacher (`TeacherFacts`, *optional*):
            The teacher that set the source's geometric targets.
        metric (`TeacherFacts`, *optional*):
            The network that said how long the teacher's unit is in metres.
        other_teachers (`list[TeacherFacts]`, *optional*):
            Further networks whose output went into the source.
        num_frames (`int`, *optional*):
            Frames of a clip in training; the code on the card samples as many.
        results (`list[EvaluationRecord]`, *optional*):
            Results of benchmarks, of the source or of this checkpoint.
        versions (`dict[str, str]`, *optional*):
            Versions of the libraries that exported it.

    Raises:
        ValueError: A `license` that the teacher does not allow. Raised by `render` and `save`.
    """

    model_id: str
    source: str | None = None
    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    language: str | None = None
    datasets: list[str] = field(default_factory=list)
    teacher: TeacherFacts | None = None
    metric: TeacherFacts | None = None
    other_teachers: list[TeacherFacts] = field(default_factory=list)
    num_frames: int | None = None
    results: list[EvaluationRecord] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, card: GeoVRModelCardData, model_id: str, source: str) -> "GeoVRExportCardData":
        """The facts of an export that its source's card knows.

        Args:
            card ([`GeoVRModelCardData`]): The source's card.
            model_id (`str`): Name of the export.
            source (`str`): Name of the source.
        """
        same = ("base_model", "license", "language", "datasets", "teacher", "metric", "num_frames", "results")
        others = list(card.other_teachers)
        return cls(model_id, source, other_teachers=others, **{name: getattr(card, name) for name in same})

    def render(self) -> ModelCard:
        """Fill the template.

        Returns:
            [`~huggingface_hub.ModelCard`]: The card. `str(card)` is the text of `README.md`.
        """
        return ModelCard.from_template(
            self.metadata(),
            template_path=str(TEMPLATE),
            card=self,
            plain=plain,
            shell_id=shlex.quote(self.model_id),
            restricting=restricting(self.networks),
            networks_table=networks_table(self.teacher, self.metric, self.other_teachers),
            record_sections=record_sections(self.results),
            versions_line=", ".join(f"{plain(name)} {plain(version)}" for name, version in self.versions.items()),
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
        """All whose output the source was trained on."""
        return [network for network in (self.teacher, self.metric, *self.other_teachers) if network is not None]

    def metadata(self) -> ModelCardData:
        """The card's front matter, the part the Hub reads."""
        return ModelCardData(
            language=self.language,
            library_name="transformers",
            pipeline_tag=TASK,
            base_model=self.base_model,
            base_model_relation="finetune" if self.base_model else None,
            datasets=self.datasets or None,
            tags=["geovr", "qwen3_vl", "spatial-reasoning"],
            **index_metadata(self.model_id, [], self.results),
            **self._licence(),
        )

    def _licence(self) -> dict[str, str | None]:
        if restricting(self.networks):
            return licence_metadata(self.networks, self.license)
        stated = {"license": self.license, "license_name": self.license_name}
        return {name: value for name, value in stated.items() if value}
