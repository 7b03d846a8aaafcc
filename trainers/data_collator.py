"""From decoded rows to batches: for training, with labels and targets, and for answering, with the question alone."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch

from geovr_hf.modeling.processing_geovr import GeoVRProcessor
from geovr_hf.trainers.conversation import Conversation, read_row
from geovr_hf.trainers.one_storage import leave_worker


IGNORE_INDEX = -100


@dataclass
class GeoVRDataCollator:
    r"""Turns decoded rows (see [`~geovr_hf.trainers.conversation.read_row`]) into a batch for the model.

    Rows may hold any number of turns, clips and images, or none. Labels are the assistant's tokens: from after the
    line that names its role through `<|im_end|>` and the line break that follows. Of a `prompt` and `completion` row,
    only the completion is learnt. The names of the arguments are TRL's where they mean the same.

    Args:
        processor ([`GeoVRProcessor`]): The processor, whose tokenizer has the geometry tokens.
        geometry_tokens (`bool`, *optional*, defaults to `True`):
            Close frames with geometry tokens, one temporal patch per frame, and pass the targets on. Without, clips
            enter as in the plain backbone and targets are left out: ordinary fine-tuning.
        max_length (`int`, *optional*):
            Longest row in tokens. A longer one is an error: cutting it would cut the clip.
        assistant_only_loss (`bool`, *optional*, defaults to `True`):
            Learn the assistant's turns alone. Otherwise all text is learnt, never the visual tokens.
        completion_only_loss (`bool`, *optional*):
            Of a `prompt` and `completion` row, learn the completion alone. By default yes; with `False` the prompt is
            learnt, too, like a row of `messages`. Both restrictions hold together.
        keep_frames (`bool`, *optional*, defaults to `False`):
            Add each clip's frames under `frames`, for a teacher that computes targets during training.
        keep_columns (`Sequence[str]`, *optional*, defaults to `()`):
            Columns passed on as lists, such as `"id"`, `"question_type"` and `"answer"`.

    """

    processor: GeoVRProcessor
    geometry_tokens: bool = True
    max_length: int | None = None
    assistant_only_loss: bool = True
    completion_only_loss: bool | None = None
    keep_frames: bool = False
    keep_columns: Sequence[str] = ()

    # Whether batches are for training alone; see `for_training`.
    _trains = False

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            rows (`Sequence[dict]`): Decoded rows.

        Returns:
            `dict`: What the processor returns, padded on the right, `labels` of the shape of `input_ids`, and
            `geometry_targets`, a list with one entry per clip in the order of `video_grid_thw`.

        Raises:
            ValueError: A row cannot be used. The message names it, what is wrong, and the cure.
        """
        conversations = [read_row(row, index) for index, row in enumerate(rows)]
        batch = self._encode(conversations, padding_side="right")
        self._check_length(batch["attention_mask"], conversations)
        learnt = self._learnt_tokens(batch["input_ids"], batch["attention_mask"], conversations)
        for row, conversation, mask in zip(rows, conversations, learnt, strict=True):
            # With an answer beside it, a question may be evaluated or rewarded instead.
            if (self._trains or row.get("answer") is None) and not row.get("filler"):
                self._check_taught(conversation, mask)
        batch["labels"] = batch["input_ids"].masked_fill(~learnt, IGNORE_INDEX)
        if self.geometry_tokens:
            batch["geometry_targets"] = [target for c in conversations for target in c.targets]
        if self.keep_frames:
            batch["frames"] = [frames for c in conversations for frames in c.videos]
        return self._pass_on(batch, rows)

    def for_answering(self, geometry_tokens: bool = False) -> "GeoVRAnswerCollator":
        """The collator that poses the same rows' questions. It knows nothing of what a subclass overrides.

        Args:
            geometry_tokens (`bool`, *optional*, defaults to `False`): Whether geometry tokens close the frames.

        Returns:
            [`GeoVRAnswerCollator`].
        """
        return GeoVRAnswerCollator(self.processor, geometry_tokens=geometry_tokens, max_length=self.max_length)

    def for_training(self) -> "GeoVRDataCollator":
        """The same collator, also of a subclass, for training alone: there, a column `answer` teaches nothing."""
        made = copy.copy(self)
        made._trains = True
        return made

    def for_packing(self, raw_pixels: bool = False) -> "GeoVRDataCollator":
        """The collator that packs the same rows.

        It knows nothing of what a subclass overrides: the trainer packs its rows only if it overrides this, too.

        Args:
            raw_pixels (`bool`, *optional*, defaults to `False`):
                Leave pixels bytes, for [`~geovr_hf.trainers.raw_pixels.PixelScaler`].

        Returns:
            [`~geovr_hf.trainers.packed_collator.GeoVRPackedDataCollator`].
        """
        from geovr_hf.trainers.packed_collator import GeoVRPackedDataCollator

        own = {f.name: getattr(self, f.name) for f in fields(GeoVRDataCollator)}
        return GeoVRPackedDataCollator(**own, raw_pixels=raw_pixels)

    def _encode(
        self, conversations: list[Conversation], padding_side: str, add_generation_prompt: bool = False
    ) -> dict[str, Any]:
        for conversation in conversations:
            self._check_words(conversation)
        texts = [
            self.processor.apply_chat_template(
                c.messages, tokenize=False, add_generation_prompt=add_generation_prompt, **c.chat_template_kwargs
            )
            for c in conversations
        ]
        return self._process(texts, conversations, padding_side)

    def _process(
        self, texts: list[str], conversations: list[Conversation], padding_side: str, **options: bool
    ) -> dict[str, Any]:
        """Texts and the clips and pictures of their conversations through the processor."""
        videos = [video for c in conversations for video in c.videos]
        images = [image for c in conversations for image in c.images]
        media = {}
        if videos:
            media["videos"] = videos
            media["video_timestamps"] = [timestamps for c in conversations for timestamps in c.timestamps]
        if images:
            media["images"] = images
        return dict(
            self.processor(
                text=texts,
                **media,
                geometry_tokens=self.geometry_tokens,
                padding=True,
                padding_side=padding_side,
                return_tensors="pt",
                **options,
            )
        )

    def _check_length(self, attention_mask: torch.Tensor, conversations: list[Conversation]):
        if self.max_length is None:
            return
        for conversation, length in zip(conversations, attention_mask.sum(1).tolist(), strict=True):
            if length > self.max_length:
                raise ValueError(
                    f"{conversation.name} has {length} tokens, more than `max_length={self.max_length}`. Sample fewer "
                    "or smaller frames, drop the row, or raise `max_length`; cutting it would cut the clip."
                )

    def _check_words(self, conversation: Conversation):
        """Check that no text holds a token that stands for a part of a clip or picture."""
        words = conversation.words()
        if found := [token for token in self._visual_tokens if token in words]:
            raise ValueError(
                f"{conversation.name} has control tokens of clips or pictures in its text: {', '.join(found)}. Remove "
                f'them: a clip is a content part {{"type": "video"}}. The words end: {words[-80:]!r}'
            )

    def _check_taught(self, conversation: Conversation, learnt: torch.Tensor):
        """Check that a row of training teaches something: words, or geometry that it has or a teacher will tell."""
        targets = any(target is not None for target in conversation.targets) or (
            self.keep_frames and len(conversation.videos) > 0
        )
        if not (learnt.any() or (self.geometry_tokens and targets)):
            raise ValueError(
                f"{conversation.name} teaches nothing: it has neither an answer, a message of the role `assistant` (a "
                "column `answer` is none), nor geometry targets. Add the answer, or leave the row out. The words end: "
                f"{conversation.words()[-80:]!r}"
            )

    def _learnt_tokens(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, conversations: list[Conversation]
    ) -> torch.Tensor:
        """Mask of the tokens to learn, of the shape of `input_ids`."""
        if self.assistant_only_loss:
            return torch.stack(
                [
                    self._assistant_tokens(ids, mask, conversation)
                    for ids, mask, conversation in zip(input_ids, attention_mask, conversations, strict=True)
                ]
            )
        visual = torch.isin(input_ids, torch.tensor(self._visual_token_ids()))
        learnt = attention_mask.bool() & ~visual
        for row, conversation in enumerate(conversations):
            if conversation.has_completion and self.completion_only_loss is not False:
                begins = self._turn_begins(input_ids[row], conversation)
                learnt[row, : begins[conversation.num_context_turns]] = False
        return learnt

    def _assistant_tokens(self, ids: torch.Tensor, mask: torch.Tensor, conversation: Conversation) -> torch.Tensor:
        """Mask of the tokens to learn in one padded row."""
        first = 0 if self.completion_only_loss is False else conversation.num_context_turns
        length = int(mask.sum())
        ends = (ids == self.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")).nonzero().squeeze(1).tolist()
        learnt = torch.zeros_like(ids, dtype=torch.bool)
        for begin in self._turn_begins(ids, conversation)[first:]:
            stop = next(position for position in ends if position >= begin)
            learnt[begin : min(stop + 2, length)] = True
        return learnt

    def _turn_begins(self, ids: torch.Tensor, conversation: Conversation) -> list[int]:
        """Where the assistant's turns begin in one row, past the line that names the role."""
        header = self._assistant_header
        windows = ids.unfold(0, len(header), 1) if len(ids) >= len(header) else ids.new_empty(0, len(header))
        # Past the header comes the line break, in the same token as an answer's own leading ones: given, not learnt.
        begins = ((windows == header).all(1).nonzero().squeeze(1) + len(header) + 1).tolist()
        if len(begins) != conversation.num_assistant_turns:
            raise ValueError(
                f"{conversation.name} has {conversation.num_assistant_turns} assistant turns, but {len(begins)} in "
                "its text. Either a message contains the chat template's control tokens, or the template is not "
                "ChatML as Qwen's is."
            )
        return begins

    @cached_property
    def _assistant_header(self) -> torch.Tensor:
        """Ids that open a turn of the assistant, but for the line break."""
        tokenizer = self.processor.tokenizer
        start = tokenizer.convert_tokens_to_ids("<|im_start|>")
        return torch.tensor([start, *tokenizer.encode("assistant", add_special_tokens=False)])

    def _visual_token_ids(self) -> list[int]:
        processor = self.processor
        return [
            processor.image_token_id,
            processor.video_token_id,
            processor.vision_start_token_id,
            processor.vision_end_token_id,
            *processor.geometry_token_ids,
        ]

    @cached_property
    def _visual_tokens(self) -> list[str]:
        return self.processor.tokenizer.convert_ids_to_tokens(self._visual_token_ids())

    def _pass_on(self, batch: dict[str, Any], rows: Sequence[dict]) -> dict:
        for column in self.keep_columns:
            batch[column] = [row.get(column) for row in rows]
        return leave_worker(batch)


@dataclass
class GeoVRAnswerCollator(GeoVRDataCollator):
    """Turns decoded rows into prompts to generate from: the messages before the last answer, padded on the left.

    Beside the model's inputs, a batch holds lists under `id`, `question_type` and `answer`: the column of that name,
    or for `answer` the text of the last message. Arguments are those of [`GeoVRDataCollator`].
    """

    geometry_tokens: bool = False

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch of prompts. Arguments and errors are those of [`GeoVRDataCollator`]."""
        conversations = [read_row(row, index) for index, row in enumerate(rows)]
        asked = [replace(c, messages=c.question()) for c in conversations]
        batch = self._encode(asked, padding_side="left", add_generation_prompt=True)
        self._check_length(batch["attention_mask"], conversations)
        batch["id"] = [row.get("id") for row in rows]
        batch["question_type"] = [_question_type(row, c) for row, c in zip(rows, conversations, strict=True)]
        batch["answer"] = [
            str(row["answer"]) if row.get("answer") is not None else c.answer()
            for row, c in zip(rows, conversations, strict=True)
        ]
        return batch


def _question_type(row: dict[str, Any], conversation: Conversation) -> str | None:
    """Read before anything is generated: it names a metric."""
    found = row.get("question_type")
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{conversation.name}: `question_type` must be text, which names a metric, got {found!r}.")
    return found
