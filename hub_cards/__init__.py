"""Cards filled from what was really run: the facts, their collection during training, and the templates."""

from geovr_hf.hub_cards.card_callback import GeoVRCardCallback
from geovr_hf.hub_cards.evaluations import CardEvaluation, EvaluationRecord, read_records
from geovr_hf.hub_cards.export_card import GeoVRExportCardData
from geovr_hf.hub_cards.licence import CardTeacher
from geovr_hf.hub_cards.lineage import read_card_facts
from geovr_hf.hub_cards.model_card import GeoVRModelCardData
from geovr_hf.hub_cards.targets_card import GeoVRTargetsCardData


__all__ = [
    "CardEvaluation",
    "CardTeacher",
    "EvaluationRecord",
    "GeoVRCardCallback",
    "GeoVRExportCardData",
    "GeoVRModelCardData",
    "GeoVRTargetsCardData",
    "read_card_facts",
    "read_records",
]
