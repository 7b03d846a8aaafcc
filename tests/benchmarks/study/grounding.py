"""Visual tokens that are near the words of what they show and where, as a pretrained model's are: the warm-up's part.

Questions alone teach a student from random weights to name what it sees, but not to find a thing by its name. For
that a visual token must say what it shows and where, and a name must attend to it, and neither pays without the other.
So each visual token is told what it shows, by a loss of its own: the word, and the thing's place in the picture's
width. Nothing of it is about space.
"""

import numpy as np
import torch
from torch.nn import functional as F

from geovr_hf import GeoVRTrainer
from geovr_hf.data.rooms.furniture import CATEGORIES
from geovr_hf.data.rooms.render import View
from geovr_hf.data.rooms.scene import Room
from geovr_hf.trainers.running_means import RunningMeans

from .flat_questions import tenth


COLUMN = "shown"  # of the rows: what each visual token shows
_WORDS = ("nothing", *CATEGORIES)
_PLACES = tuple("0123456789")
_LEAST = 0.25  # of a visual token's pixels, for a thing that it shows


def token_shares(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each visual token's pixels that a mask `(H, W)` covers, `(h, w)`."""
    height, width = mask.shape
    return mask.reshape(grid[0], height // grid[0], grid[1], width // grid[1]).mean((1, 3))


def shown_in_tokens(view: View, room: Room, grid: tuple[int, int]) -> np.ndarray:
    """What each visual token shows most of.

    Args:
        view (`View`): The rendered frames.
        room (`Room`): What stands in them.
        grid (`tuple[int, int]`): Rows and columns of visual tokens over a frame, `(h, w)`.

    Returns:
        `np.ndarray` of shape `(T, h, w, 2)`: 0 for nothing, else the place of the thing's category from 1 on; and the
        tenth of the frame's width that the middle of what is seen of it stands at.
    """
    numbers = {name: number for number, name in enumerate(CATEGORIES, start=1)}
    shown = np.zeros((len(view.instances), *grid, 2), dtype=np.uint8)
    for frame, labels in zip(shown, view.instances, strict=True):
        most = np.full(grid, _LEAST)
        for label in np.unique(labels[labels > 0]):
            seen = labels == label
            share, place = token_shares(seen, grid), tenth(np.nonzero(seen)[1].mean() / labels.shape[1])
            frame[share >= most] = numbers[room.furniture[label - 1].category], place
            most = np.maximum(most, share)
    return shown


class GroundingTrainer(GeoVRTrainer):
    """A trainer that also teaches what each visual token shows, from the column `shown` of its rows."""

    def __init__(self, model, args, data_collator, **kwargs):
        data_collator.keep_columns = (COLUMN,)
        super().__init__(model, args, data_collator, **kwargs)
        # Words as they stand in a question, behind a blank. A small vocabulary has several tokens to one.
        texts = [*(f" {word}" for word in _WORDS), *_PLACES]
        ids = self.processing_class.tokenizer(texts, add_special_tokens=False)["input_ids"]
        starts = torch.tensor([0, *map(len, ids[:-1])]).cumsum(0)
        tokens = torch.tensor([token for text in ids for token in text])
        self._texts = tokens.to(args.device), starts.to(args.device)
        self._tokens: torch.Tensor | None = None
        self._grounding = RunningMeans(["word_loss", "place_loss"])
        model.model.visual.register_forward_hook(self._keep_tokens)

    def _keep_tokens(self, module, inputs, output):
        self._tokens = output.pooler_output

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The language loss, and that of the visual tokens beside it."""
        shown = inputs[COLUMN]
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        # Rows of one clip come together, and hold the same.
        first, clips = 0, []
        for questions in inputs["layout"].question_lengths:
            clips.append(shown[first].reshape(-1, 2))
            first += max(len(questions), 1)
        words, places = torch.from_numpy(np.concatenate(clips)).to(loss.device).long().unbind(-1)
        tokens = F.rms_norm(self._tokens.float(), self._tokens.shape[-1:])
        of_words, of_places = (tokens @ self._vectors().T).split([len(_WORDS), len(_PLACES)], dim=-1)
        word_loss = F.cross_entropy(of_words, words)
        places = places.where(words > 0, -100)
        place_loss = F.cross_entropy(of_places, places, reduction="sum") / (words > 0).sum().clamp(min=1)
        self._grounding.add("word_loss", word_loss)
        self._grounding.add("place_loss", place_loss)
        self._tokens = None
        loss = loss + word_loss + place_loss
        return (loss, outputs) if return_outputs else loss

    def _vectors(self) -> torch.Tensor:
        """Vectors of words and places, as the model reads them: a mean where they are of several tokens."""
        ids, starts = self._texts
        return F.embedding_bag(ids, self.model.get_input_embeddings().weight.float(), starts, mode="mean")

    def log(self, logs, start_time=None):
        """With the loss of the visual tokens."""
        if "loss" in logs:
            logs |= self._grounding.pop(self.accelerator)
        super().log(logs, start_time)
