"""Reinforcement learning: TRL's GRPO, with clips in its prompts and geometric losses beside its own."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, set_seed
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from geovr_hf.modeling.processing_geovr import GeoVRProcessor
from geovr_hf.trainers.carded import Carded
from geovr_hf.trainers.conversation import read_row
from geovr_hf.trainers.data_collator import GeoVRAnswerCollator, GeoVRDataCollator
from geovr_hf.trainers.grpo_config import GeoVRGRPOConfig
from geovr_hf.trainers.grpo_prompts import Prompt, as_messages, as_prompts, encode_prompts, join_media
from geovr_hf.trainers.parameter_groups import freeze_parameters, is_geometry_parameter, split_parameter_groups
from geovr_hf.trainers.peft import check_frozen, check_geometry_is_saved
from geovr_hf.trainers.process_group import release_process_group
from geovr_hf.trainers.resumable import Resumable
from geovr_hf.trainers.rewards import RewardFunction


if TYPE_CHECKING:
    from peft import PeftConfig


class GeoVRGRPOTrainer(Carded, Resumable, GRPOTrainer):
    r"""Trains a GeoVR model to answer questions about clips by trying, with rewards for what it says.

    [`~trl.GRPOTrainer`] knows images, but no clips. Here prompts are encoded by [`GeoVRAnswerCollator`], as evaluation
    asks them, and their clips go along into generation and into every pass that scores completions. With
    `geometry_loss_weight` the clips' geometric losses are added. Arguments that are not listed are TRL's.

    Args:
        model ([`GeoVRForConditionalGeneration`] or [`~peft.PeftModel`]):
            The model.
        reward_funcs (`Callable` or list of them):
            Rewards, such as those of [`~geovr_hf.trainers.rewards`].
        args ([`GeoVRGRPOConfig`]):
            The arguments.
        train_dataset (`Dataset`):
            Decoded rows, see [`~geovr_hf.trainers.grpo_prompts.PromptDataset`].
        eval_dataset (`Dataset`, *optional*):
            The same for evaluation.
        processing_class ([`GeoVRProcessor`]):
            The processor.
        teacher (*optional*):
            Sets the targets of clips without any, as in [`GeoVRTrainer`].
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapters to train, see [`~geovr_hf.trainers.peft.geovr_lora_config`].

    Raises:
        ValueError: Adapters that would leave the heads untrained though the geometric losses are kept, or train what
            the arguments freeze; a geometric loss on a model without objectives.
    """

    _tag_names = ["trl", "grpo", "geovr", "spatial-reasoning", "3d"]

    def __init__(
        self,
        model: PreTrainedModel,
        reward_funcs: RewardFunction | list[RewardFunction],
        args: GeoVRGRPOConfig,
        train_dataset,
        eval_dataset=None,
        processing_class: GeoVRProcessor | None = None,
        *,
        teacher=None,
        peft_config: "PeftConfig | None" = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        if processing_class is None:
            raise ValueError("Pass a `processing_class`: prompts need a processor.")
        is_adapted = hasattr(model, "peft_config")
        if args.geometry_loss_weight and not model.config.objectives:
            raise ValueError("`geometry_loss_weight` needs objectives, and the model has none. Leave it 0.")
        if args.geometry_loss_weight and (is_adapted or peft_config is not None):
            check_geometry_is_saved(model, model.peft_config["default"] if is_adapted else peft_config)
        if not is_adapted:
            freeze_parameters(model, args)
        reference = None
        if args.beta and peft_config is None and not is_adapted:
            # TRL would load a reference by an Auto class that knows neither our model nor one that lies on no disk.
            reference = copy.deepcopy(model).requires_grad_(False).eval()
        beta, args.beta = args.beta, 0.0 if reference is not None else args.beta
        self.teacher = teacher
        self._objectives = tuple(model.config.objectives)
        self._ask = GeoVRAnswerCollator(processing_class)
        self._look = GeoVRDataCollator(processing_class)
        self._prompts: Sequence[Prompt] = ()
        set_seed(args.seed)  # TRL does it later, and adapters are drawn first
        super().__init__(
            model=model,
            reward_funcs=reward_funcs,
            args=args,
            train_dataset=as_prompts(train_dataset),
            eval_dataset=None if eval_dataset is None else as_prompts(eval_dataset),
            processing_class=processing_class,
            peft_config=peft_config,
            callbacks=callbacks,
        )
        if reference is not None:
            self._set_reference(reference, beta)
        if not args.geometry_loss_weight:
            for name, parameter in self.model.named_parameters():
                if is_geometry_parameter(name):
                    parameter.requires_grad_(False)
        check_frozen(self.model, args)
        self._silence_media_tokens(processing_class)

    def _set_reference(self, reference: nn.Module, beta: float):
        """Do for our reference model what TRL does for its own."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError(f"With DeepSpeed or FSDP, `beta={beta}` needs adapters: pass a `peft_config`.")
        self.args.beta = self.beta = beta
        add_fused_lm_head(reference, temperature=self.temperature, cast_lm_head_to_fp32=self.args.cast_lm_head_to_fp32)
        self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _silence_media_tokens(self, processor: GeoVRProcessor):
        """Never sample a token that stands for a patch: it would find no features."""
        silent = [
            processor.image_token_id,
            processor.video_token_id,
            processor.vision_start_token_id,
            processor.vision_end_token_id,
            *processor.geometry_token_ids,
        ]
        self.generation_kwargs["suppress_tokens"] = self.generation_config.suppress_tokens = silent

    # ---- clips ----

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._prompts = encode_prompts(inputs, self._ask)
        # TRL copies, gathers and logs prompts: it gets them without their frames.
        light = [{**row, "prompt": prompt.messages} for row, prompt in zip(inputs, self._prompts, strict=True)]
        for row in light:
            for name in ("videos", "images", "image"):
                row.pop(name, None)
        outputs = super()._generate_and_score_completions(light)
        # A list with one entry per completion, which TRL shuffles and splits with the rest.
        return {**outputs, "encoded_prompts": list(self._prompts)}

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict[str, Any]]:
        prompt_ids = [prompt.input_ids for prompt in self._prompts]
        types = {"mm_token_type_ids": self.processing_class.create_mm_token_type_ids(prompt_ids)}
        return prompt_ids, None, types | join_media(self._prompts)

    def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
        return super()._get_per_token_logps_and_entropies(
            _WithClips(model, self.processing_class, self._prompts), *args, **kwargs
        )

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        self._prompts = inputs["encoded_prompts"]
        loss = super()._compute_loss(model, inputs)
        if self.args.geometry_loss_weight:
            loss = loss + self.args.geometry_loss_weight * self._geometry_loss(model)
        return loss

    def _geometry_loss(self, model: nn.Module) -> torch.Tensor:
        """The geometric losses of this batch's clips, each counted once, as its share of an update."""
        batch = self._geometry_batch()
        with self.accelerator.autocast():
            outputs = model(**batch)
        mode = "train" if self.model.training else "eval"
        for name in (f"{objective}_loss" for objective in self._objectives):
            # Every process gathers, also one whose clips have no such target.
            found = outputs.get(name)
            value = torch.tensor(torch.nan, device=self.accelerator.device) if found is None else found.detach()
            self._metrics[mode][name].append(self.accelerator.gather(value).nanmean().item())
        return outputs.loss / (self.current_gradient_accumulation_steps if mode == "train" else 1)

    def _geometry_batch(self) -> dict[str, Any]:
        batch = self._look([self._looked_at(prompt) for prompt in {id(p): p for p in self._prompts}.values()])
        del batch["labels"]
        return send_to_device(batch, self.accelerator.device)

    def _looked_at(self, prompt: Prompt) -> dict[str, Any]:
        """The prompt's row for the collator of training, the teacher asked once if there are no targets."""
        row = as_messages(prompt.row)
        if row["geometry_targets"] is None and self.teacher is not None:
            targets = [self.teacher.targets(clip) for clip in read_row(row).videos]
            row["geometry_targets"] = prompt.row["geometry_targets"] = targets
        return row

    def check_row(self, index: int):
        """Encode a row and look at its clips as training would, so that what cannot work fails before training.

        Args:
            index (`int`): Its number in the training set.

        Raises:
            ValueError: What the collator, the teacher or the model say about it.
        """
        self._prompts = encode_prompts([self.train_dataset[index]], self._ask)
        if self.args.geometry_loss_weight:
            batch = self._geometry_batch()
            with torch.no_grad(), self.accelerator.autocast():
                self.accelerator.unwrap_model(self.model)(**batch)

    def learns_geometry(self) -> bool:
        """Whether geometric targets take part in the loss."""
        return self.args.geometry_loss_weight > 0

    # ---- optimization ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in transformers, with groups of their own for the heads and the geometry-token embedding."""
        if self.optimizer is None:
            optimizer = super().create_optimizer(model)
            split_parameter_groups(optimizer, self.model if model is None else model, self.args.geometry_learning_rate)
        return self.optimizer

    def window_state(self) -> dict[str, Any]:
        """What was measured since the last log, and where in the generation batch this is, for a checkpoint."""
        return {"metrics": self._metrics["train"], "step": self._step}

    def load_window_state(self, state: dict[str, Any]):
        """Go on from a checkpoint. Completions are not saved: within a generation batch they are sampled anew."""
        self._metrics["train"].update(state["metrics"])
        self._step = state["step"]

    def end(self):
        """As in transformers, for the very end of a script. With the process group, its threads end here."""
        release_process_group(self)
        super().end()


class _WithClips:
    """A model that is handed the clips of its rows, which come in order, some at each call.

    Args:
        model (`nn.Module`): The model, perhaps wrapped.
        processor ([`GeoVRProcessor`]): Tells which tokens are media.
        prompts (`Sequence[Prompt]`): The prompts of all rows.
    """

    def __init__(self, model: nn.Module, processor: GeoVRProcessor, prompts: Sequence[Prompt]):
        self.model, self.processor = model, processor
        self.prompts = list(prompts)

    def __call__(self, input_ids: torch.Tensor, **kwargs):
        prompts, self.prompts = self.prompts[: len(input_ids)], self.prompts[len(input_ids) :]
        media = {name: value.to(input_ids.device) for name, value in join_media(prompts).items()}
        types = torch.tensor(self.processor.create_mm_token_type_ids(input_ids.tolist()), device=input_ids.device)
        return self.model(input_ids=input_ids, mm_token_type_ids=types, **media, **kwargs)
