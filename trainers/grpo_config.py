"""Arguments of [`GeoVRGRPOTrainer`]: those of TRL, and what GeoVR adds."""

from dataclasses import dataclass, field

from transformers.utils import is_torch_bf16_gpu_available
from trl import GRPOConfig

from geovr_hf.trainers.reporters import check_reporters


@dataclass
class GeoVRGRPOConfig(GRPOConfig):
    r"""Arguments of [`GeoVRGRPOTrainer`].

    Only what is new, or has another default than in [`~trl.GRPOConfig`], is listed.

    Args:
        > Parameters of the regulariser

        geometry_loss_weight (`float`, *optional*, defaults to 0):
            Weight of the geometric losses of the prompts' clips, as the model's configuration sums them, beside the
            policy's. It keeps the geometry from being forgotten. Without it, heads and geometry tokens are frozen.
        geometry_learning_rate (`float`, *optional*, defaults to 1e-5):
            Learning rate of the geometric heads and the geometry-token embedding.

        > Parameters of what is trained

        freeze_vision_tower (`bool`, *optional*, defaults to `True`):
            Freeze the vision tower including its DeepStack mergers, but not its final merger.
        freeze_merger (`bool`, *optional*, defaults to `False`):
            Freeze the final merger.
        freeze_language_model (`bool`, *optional*, defaults to `False`):
            Freeze the language model including its embeddings and `lm_head`.

        > Parameters with other defaults than in TRL

        bf16 (`bool`, *optional*):
            Train in bfloat16 mixed precision. By default on a GPU that has it, unless `fp16` is set or on the CPU.
        ddp_find_unused_parameters (`bool`, *optional*, defaults to `False`):
            Every trainable parameter takes part in every step, so there is nothing to search for.

    Raises:
        ValueError: A combination that cannot work. The message names the arguments.
        ImportError: What `report_to` names is not installed.
    """

    geometry_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of the geometric losses beside the policy's; 0 freezes the heads."}
    )
    geometry_learning_rate: float = field(
        default=1e-5, metadata={"help": "Learning rate of the geometric heads and the geometry-token embedding."}
    )
    freeze_vision_tower: bool = field(
        default=True, metadata={"help": "Freeze the vision tower and its DeepStack mergers, not its final merger."}
    )
    freeze_merger: bool = field(default=False, metadata={"help": "Freeze the vision tower's final merger."})
    freeze_language_model: bool = field(
        default=False, metadata={"help": "Freeze the language model, its embeddings and `lm_head`."}
    )
    bf16: bool | None = field(
        default=None,
        metadata={"help": "bfloat16 mixed precision. Default: on where the GPU has it and `fp16` is not set."},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search for unused parameters in every step: there are none."}
    )

    def __post_init__(self):
        """Refuse what cannot work, then fill in what depends on the machine."""
        if not 0 <= self.geometry_loss_weight < float("inf"):
            raise ValueError(f"`geometry_loss_weight` must be zero or positive, got {self.geometry_loss_weight}.")
        if self.geometry_learning_rate < 0:
            raise ValueError(f"`geometry_learning_rate` must be zero or positive, got {self.geometry_learning_rate}.")
        if self.use_vllm or self.use_transformers_continuous_batching:
            raise ValueError(
                "TRL hands neither vLLM nor continuous batching the clips of a prompt. Leave `use_vllm` and "
                "`use_transformers_continuous_batching` off."
            )
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns=True` would drop the answers and targets. Leave it `False`.")
        if self.sync_ref_model:
            raise ValueError("`sync_ref_model=True` is not supported: the reference stays the model that you pass.")
        if self.bf16 is None:
            self.bf16 = not self.use_cpu and not self.fp16 and is_torch_bf16_gpu_available()
        super().__post_init__()
        check_reporters(self.report_to)
