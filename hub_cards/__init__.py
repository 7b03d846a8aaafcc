"""Cards filled from what was really run: the facts, their collection during training, and the templates."""

from geovr_hf.hub_cards.card_callback import GeoVRCardCallback
from geovr_hf.hub_cards.model_card import CardEvaluation, GeoVRModelCardData
from geovr_hf.hub_cards.targets_card import GeoVRTargetsCardData


__all__ = ["CardEvaluation", "GeoVRCardCallback", "GeoVRModelCardData", "GeoVRTargetsCardData"]
