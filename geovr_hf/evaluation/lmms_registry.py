"""What lmms-eval's entry point reads, so that `lmms_eval --model geovr` knows the model of `lmms_model.py`."""

from lmms_eval.models.registry_v2 import ModelManifest


manifest = ModelManifest(
    model_id="geovr", chat_class_path="geovr_hf.evaluation.lmms_model.GeoVRBenchmarkModel", aliases=("geovr_hf",)
)
