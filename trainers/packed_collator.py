"""From decoded rows to packed batches, in which the questions about a clip share its tokens."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from geovr_hf.trainers.conversation import Conversation, read_row
from geovr_hf.trainers.data_collator import GeoVRDataCollator
from geovr_hf.trainers.packing import PackedRow, pack_rows
from geovr_hf.trainers.raw_pixels import PIXELS, UNTOUCHED


@dataclass
class GeoVRPackedDataCollator(GeoVRDataCollator):
    r"""Turns decoded rows into packed rows without padding, see [`PackedLayout`].

    Rows share a prefix if everything up to the end of their last clip is the same: the clips are the same tensors (as
    data sets give them to rows of one clip), and so are the words before and between. Rows with a `packed_row`, as the
    trainer's loader marks them, share only with those of the same: how batches are cut changes nothing. What a model
    learns from the packed batch is what it would learn from the rows: the language loss is the same mean over
    supervised tokens. Only a shared clip counts once in the geometric losses, however many questions share it.

    Arguments are those of [`GeoVRDataCollator`].

    Args:
        raw_pixels (`bool`, *optional*, defaults to `False`):
            Leave pixels the bytes they are, for [`~geovr_hf.trainers.raw_pixels.PixelScaler`] to scale on the model's
            device. Clips and pictures that do not come as bytes are scaled here, as without it.
    """

    raw_pixels: bool = False

    def for_packing(self, raw_pixels: bool = False) -> "GeoVRPackedDataCollator":
        """The same collator, also of a subclass, with pixels left bytes or not."""
        made = copy.copy(self)
        made.raw_pixels = raw_pixels
        return made

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            rows (`Sequence[dict]`): Decoded rows.

        Returns:
            `dict`: `input_ids` of shape `(1, N)`, `layout`, pixels as of Qwen3-VL, and `geometry_targets` with one
            entry per shared clip.

        Raises:
            ValueError: A row cannot be used. The message names it, what is wrong, and the cure.
        """
        groups = self._group(rows)
        encoded = self._encode_prefixes(groups)
        batch = pack_rows(
            [self._packed_row(group, *prefix) for group, prefix in zip(groups, encoded.pop("prefixes"), strict=True)],
            encoded.pop("image_grid_thw", torch.zeros(0, 3)).tolist(),
            encoded.pop("video_grid_thw", torch.zeros(0, 3)).tolist(),
            geometry_token_ids=self.processor.geometry_token_ids,
            image_token_id=self.processor.image_token_id,
            video_token_id=self.processor.video_token_id,
            merge_size=self.processor.video_processor.merge_size,
        )
        batch |= encoded
        if self.geometry_tokens:
            batch["geometry_targets"] = [target for group in groups for target in group.targets()]
        order = [question.row for group in groups for question in group.questions]
        if self.keep_frames:  # none of fillers: a teacher is not asked about what teaches nothing
            batch["frames"] = [clip if group.taught else None for group in groups for clip in group.first.videos]
        return self._pass_on(batch, [rows[row] for row in order])

    def _group(self, rows: Sequence[dict[str, Any]]) -> "list[_Group]":
        """Rows that share a prefix, in the order in which their prefixes appear."""
        groups: dict[tuple, _Group] = {}
        checked: set[int] = set()
        for index, row in enumerate(rows):
            conversation = read_row(row, index, checked=checked)
            self._check_words(conversation)
            text = self.processor.apply_chat_template(
                conversation.messages, tokenize=False, **conversation.chat_template_kwargs
            )
            cut = 0
            if conversation.videos or conversation.images:
                end = self.processor.vision_end_token
                cut = text.rfind(end) + len(end)
            media = tuple(id(medium) for medium in (*conversation.videos, *conversation.images))
            # Rows without clips and pictures share nothing but words, and start from nothing.
            key = (text[:cut], media, row.get("packed_row")) if media else (index,)
            question = _Question(index, conversation, text[cut:], taught=not row.get("filler"))
            groups.setdefault(key, _Group(text[:cut], [])).questions.append(question)
        return list(groups.values())

    def _encode_prefixes(self, groups: "list[_Group]") -> dict[str, Any]:
        """Token ids and types of each group's prefix under `prefixes`, and the pixels and grids of all."""
        with_media = [group for group in groups if group.text]
        encoded: dict[str, Any] = {}
        if with_media:
            given = [group.text for group in with_media], [group.first for group in with_media], "right"
            encoded = self._process(*given, **(UNTOUCHED if self.raw_pixels else {}))
            if self.raw_pixels and any(encoded[name].dtype != torch.uint8 for name in PIXELS if name in encoded):
                encoded = self._process(*given)
            masks = encoded.pop("attention_mask").bool()
            ids, types = encoded.pop("input_ids"), encoded.pop("mm_token_type_ids")
            prefixes = iter([(ids[i][mask], types[i][mask]) for i, mask in enumerate(masks)])
        nothing = torch.zeros(0, dtype=torch.long)
        encoded["prefixes"] = [next(prefixes) if group.text else (nothing, nothing) for group in groups]
        return encoded

    def _packed_row(self, group: "_Group", prefix: torch.Tensor, token_types: torch.Tensor) -> PackedRow:
        texts = [question.text for question in group.questions]
        encoded = self.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        questions = [torch.tensor(ids, dtype=torch.long) for ids in encoded]
        learnt = []
        for question, ids in zip(group.questions, questions, strict=True):
            conversation = question.conversation
            whole = torch.cat([prefix, ids])
            mask = torch.ones_like(whole)
            self._check_length(mask[None], [conversation])
            taught = self._learnt_tokens(whole[None], mask[None], [conversation])[0]
            if question.taught:
                self._check_taught(conversation, taught)
            learnt.append(taught & question.taught)
        return PackedRow(prefix, token_types, questions, learnt)


def collate_groups(collator: GeoVRPackedDataCollator, groups: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Make a batch of rows that come in groups, as streams give them; of empty groups, one that is passed over."""
    rows = [{**row, "packed_row": number} for number, group in enumerate(groups) for row in group]
    return collator(rows) if rows else {}


def collate_apart(collator: GeoVRPackedDataCollator, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of rows that share nothing, whatever they are about."""
    return collate_groups(collator, [[row] for row in rows])


@dataclass
class _Question:
    """A row of the batch: its place, its text after the prefix, and whether it is more than a filler."""

    row: int
    conversation: Conversation
    text: str
    taught: bool


@dataclass
class _Group:
    """Rows that share a prefix."""

    text: str
    questions: list[_Question]

    @property
    def first(self) -> Conversation:
        return self.questions[0].conversation

    @property
    def taught(self) -> bool:
        return any(question.taught for question in self.questions)

    def targets(self) -> list:
        """Targets of the shared clips: of the first row that has some."""
        taught = [question.conversation.targets for question in self.questions if question.taught]
        if not taught:
            return [None] * len(self.first.targets)
        return [next((target for target in clip if target is not None), None) for clip in zip(*taught, strict=True)]
