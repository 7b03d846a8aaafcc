"""The card of a data set of precomputed geometry targets: its facts, and their rendering."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from geovr_hf.hub_cards.card_file import write_card
from geovr_hf.hub_cards.licence import TeacherFacts, licence_metadata, restricting
from geovr_hf.hub_cards.markdown import byte_size, networks_table, plain, table


TEMPLATE = Path(__file__).with_name("geovr_targets_card.jinja")
SIZE_CATEGORIES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)


@dataclass
class GeoVRTargetsCardData:
    """All that the card of precomputed targets tells. A fact that is not known is not mentioned.

    **Licence rule** (`hub_cards/licence.py`). What a non-commercial teacher or metric network computed is offered on
    its terms, and the card says so at its top. Otherwise `license` is the author's to choose.

    Args:
        repo_id (`str`):
            Id of the data set on the Hub. The code on the card pulls it.
        teacher (`TeacherFacts`):
            The teacher that set the targets; its `spec` will do.
        num_clips (`int`):
            Clips with targets.
        num_bytes (`int`):
            Bytes of their files.
        metric (`TeacherFacts`, *optional*):
            The network that gave the length of a unit in metres.
        num_unreadable (`int`, *optional*, defaults to 0):
            Clips that could not be read and have no targets.
        contents (`dict[str, str]`, *optional*):
            What is stored of each clip, by name, e.g. `{"depth": "float16, 392 × 504"}`.
        sampling (`dict[str, Any]`, *optional*):
            How frames were chosen: arguments of [`~geovr_hf.data.VideoDataset`].
        license (`str`, *optional*):
            Licence of the data set, an id of the Hub's list.
        tags (`list[str]`, *optional*):
            Tags beside our own.
        versions (`dict[str, str]`, *optional*):
            Versions of the libraries that computed the targets.

    Raises:
        ValueError: A `license` that teacher or metric network do not allow. Raised by `render` and `save`.
    """

    repo_id: str
    teacher: TeacherFacts
    num_clips: int
    num_bytes: int
    metric: TeacherFacts | None = None
    num_unreadable: int = 0
    contents: dict[str, str] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    license: str | None = None
    tags: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def render(self) -> DatasetCard:
        """Fill the template.

        Returns:
            [`~huggingface_hub.DatasetCard`]: The card. `str(card)` is the text of `README.md`.
        """
        return DatasetCard.from_template(
            self.metadata(),
            template_path=str(TEMPLATE),
            card=self,
            plain=plain,
            byte_size=byte_size,
            restricting=restricting(self._networks()),
            networks_table=networks_table(self.teacher, self.metric),
            contents_table=table(["stored", "how"], list(self.contents.items())),
            sampling_arguments="".join(f"{name}={value!r}, " for name, value in self.sampling.items()),
            versions_line=", ".join(f"{plain(name)} {plain(version)}" for name, version in self.versions.items()),
        )

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the card as `README.md`, in one step: a reader sees the old card or the new one, never half of it.

        Args:
            folder (`str` or `os.PathLike`): folder that the card describes; made if missing.

        Returns:
            `Path`: The file written.
        """
        return write_card(self.render(), folder)

    def metadata(self) -> DatasetCardData:
        """The card's front matter, the part the Hub reads."""
        category = next((name for bound, name in SIZE_CATEGORIES if self.num_clips < bound), "10M<n<100M")
        return DatasetCardData(
            pretty_name=self.repo_id.split("/")[-1],
            size_categories=[category],
            tags=["geovr", "geometry", "depth", "camera-pose", "video", "spatial-reasoning", *self.tags],
            # Only the index is a table: without this, `datasets` would try to read every clip's file as a row.
            configs=[{"config_name": "default", "data_files": "index.parquet"}],
            **licence_metadata(self._networks(), self.license),
        )

    def _networks(self) -> list[TeacherFacts]:
        return [self.teacher, self.metric] if self.metric else [self.teacher]
