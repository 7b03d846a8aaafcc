"""Cards that libraries leave in a checkpoint's folder where nobody has written one."""

from huggingface_hub import ModelCard, ModelCardData


# transformers asks to take its comment out of a card that was completed; the question is TRL's example.
_MARKS = (
    "This model card has been generated automatically according to the information the Trainer had access to.",
    "If you had a time machine, but could only go to the past or the future",
)
_VERSIONS = "### Framework versions"


def is_stub(card: ModelCard) -> bool:
    """Whether a card was filled by PEFT, TRL or transformers, and nobody has written in it since."""
    if any(mark in " ".join(card.text.split()) for mark in _MARKS):
        return True
    blank = ModelCard.from_template(ModelCardData()).text.split(_VERSIONS)[0]
    return card.text.split(_VERSIONS)[0].split() == blank.split()
