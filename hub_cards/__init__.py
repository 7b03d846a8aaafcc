"""Model cards filled from what was really run: the facts, their collection during training, and the template."""

from geovr_hf.hub_cards.card_callback import GeoVRCardCallback
from geovr_hf.hub_cards.model_card import CardEvaluation, GeoVRModelCardData


__all__ = ["CardEvaluation", "GeoVRCardCallback", "GeoVRModelCardData"]
