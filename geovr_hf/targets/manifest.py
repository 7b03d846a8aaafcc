"""What all files of a target folder have in common, in `manifest.json`: teacher, frame sampling, number formats."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from geovr_hf import __version__
from geovr_hf.data.sampling import FrameSampling
from geovr_hf.teachers.images import ImageRule
from geovr_hf.teachers.teacher import Teacher, TeacherSpec

from .encoding import TargetFormat
from .files import FORMAT_VERSION
from .whole_files import write_json


MANIFEST = "manifest.json"


@dataclass(frozen=True)
class MetricTerms:
    """Name and terms of the network that gave metric scale.

    Args:
        name (`str`): Its name.
        licence (`str` or `None`): Licence of its weights.
        non_commercial (`bool`): Whether that forbids commercial use.
        revision (`str`, *optional*): Commit of its weights on the Hub, if they came from there.
    """

    name: str
    licence: str | None
    non_commercial: bool
    revision: str | None = None

    @classmethod
    def of(cls, teacher: Teacher) -> "MetricTerms | None":
        """Those of a teacher's metric network; `None` for a teacher without one."""
        metric = getattr(teacher, "metric", None)
        if metric is None:
            return None
        return cls(metric.name, metric.licence, metric.non_commercial, getattr(metric, "revision", None))


@dataclass(frozen=True)
class Manifest:
    """What all files of a target folder have in common.

    Args:
        spec ([`TeacherSpec`]): Layout and terms of the teacher.
        fingerprint (`str`): Its fingerprint.
        metric ([`MetricTerms`] or `None`): The network that gave metric scale, if it was another one.
        sampling (`dict`): How frames were chosen, see [`sampling_facts`].
        format ([`TargetFormat`]): How targets are stored.
        code_version (`str`): The geovr_hf that began the folder.
        contents (`dict`, *optional*): Number of clips, bytes and sizes, as counted when the index was last written.
    """

    spec: TeacherSpec
    fingerprint: str
    metric: MetricTerms | None
    sampling: dict[str, Any]
    format: TargetFormat
    code_version: str = __version__
    contents: dict[str, Any] | None = None

    @classmethod
    def of(
        cls, teacher: Teacher, sampling: FrameSampling, target_format: TargetFormat, image_rate: float = 1.0
    ) -> "Manifest":
        """The manifest of a folder that a teacher is going to fill."""
        facts = sampling_facts(sampling, image_rate)
        return cls(teacher.spec, teacher.fingerprint, MetricTerms.of(teacher), facts, target_format)

    @classmethod
    def read(cls, folder: str | Path) -> "Manifest":
        """Read the manifest of a folder.

        Raises:
            ValueError: The folder has none, or one that is damaged or of another version.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise ValueError(f"{folder} is no folder of targets: it has no {MANIFEST}. `geovr precompute` makes one.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format_version"] != FORMAT_VERSION:
                raise ValueError(f"it is of version {values['format_version']}, this is version {FORMAT_VERSION}")
            return cls(
                spec=_restore_spec(values["teacher"]),
                fingerprint=values["fingerprint"],
                metric=None if values["metric"] is None else MetricTerms(**values["metric"]),
                sampling=values["sampling"],
                format=TargetFormat(**values["format"]),
                code_version=values["code_version"],
                contents=values["contents"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} cannot be read: {error!r}. Restore it, or compute the targets into a new folder."
            ) from error

    @property
    def licence(self) -> str | None:
        """The stricter of the two networks' licences: the teacher's, unless only the metric network is restricted."""
        only_metric = self.metric is not None and self.metric.non_commercial and not self.spec.non_commercial
        return self.metric.licence if only_metric else self.spec.licence

    def write(self, folder: str | Path) -> None:
        """Write `manifest.json`, whole or not at all."""
        values = {
            "format_version": FORMAT_VERSION,
            "code_version": self.code_version,
            "teacher": asdict(self.spec),
            "fingerprint": self.fingerprint,
            "metric": None if self.metric is None else asdict(self.metric),
            "licence": self.licence,
            "sampling": self.sampling,
            "format": asdict(self.format),
            "contents": self.contents,
        }
        write_json(Path(folder) / MANIFEST, values)

    def check_same(self, other: "Manifest", folder: str | Path) -> None:
        """Refuse to mix `other`'s targets into a folder that has this manifest.

        Raises:
            ValueError: Naming what differs, and the cure.
        """
        compared = {
            "teacher": (self.fingerprint, other.fingerprint),
            "frame sampling": (sampling_text(self.sampling), sampling_text(other.sampling)),
            "format": (self.format, other.format),
        }
        different = [f"its {name} is {old}, not {new}" for name, (old, new) in compared.items() if old != new]
        if different:
            raise ValueError(
                f"{folder} holds other targets: {'; '.join(different)}. Write to another folder, or use the same "
                "options."
            )


def sampling_facts(sampling: FrameSampling, image_rate: float = 1.0) -> dict[str, Any]:
    """A frame sampling as plain data, without what has no effect: two samplings are alike if these are equal."""
    facts: dict[str, Any] = {"num_frames": sampling.num_frames}
    if sampling.num_frames is None:
        facts = {"fps": sampling.fps or 2.0, "min_frames": sampling.min_frames, "max_frames": sampling.max_frames}
    facts |= {name: value for name in ("start", "end") if (value := getattr(sampling, name)) is not None}
    return facts | {"image_rate": image_rate}


def sampling_text(facts: Mapping[str, Any] | None) -> str:
    """[`sampling_facts`] for a reader."""
    if facts is None:
        return "unknown"
    return ", ".join(f"{name} {value:g}" for name, value in facts.items() if value is not None)


def _restore_spec(values: Mapping[str, Any]) -> TeacherSpec:
    """The spec that `dataclasses.asdict` and JSON turned into dictionaries and lists."""
    known = {field.name: values[field.name] for field in fields(TeacherSpec) if field.name in values}
    restored = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    if restored["image_rule"] is not None:
        restored["image_rule"] = ImageRule(**restored["image_rule"])
    return TeacherSpec(**restored)
