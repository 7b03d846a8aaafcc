"""Qwen3-VL with geometric heads on its hidden states."""

import functools
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Cache, GenerationMixin, Qwen3VLForConditionalGeneration
from transformers import initialization as init
from transformers.modeling_utils import slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .backbone_geovr import GeoVRModel
from .clip_layout_geovr import ClipLayout, locate_clips
from .configuration_geovr import GeoVRConfig
from .depth_head_geovr import DepthHead
from .heads_geovr import AlignmentHead, CameraHead, ScaleHead, fan_in, resize_feature_grid
from .idle_modules_geovr import idle_parameters, idle_states, idle_term
from .language_loss_geovr import LanguageHead, adapted_language_loss
from .objectives_geovr import (
    build_heads,
    camera_losses,
    check_targets,
    depth_losses,
    losses_by_shape,
    patch_states,
    pooled_features,
    predict_depth,
    scale_losses,
    state_indices,
    token_alignment_losses,
    token_states,
)
from .packed_layout_geovr import PackedLayout
from .prediction_geovr import GeoVRGeometry, metric_geometry
from .targets_geovr import GeometryTargets


@dataclass
class GeoVROutput(ModelOutput):
    r"""Output of [`GeoVRForConditionalGeneration`]. Losses are unweighted; those that did not apply are `None`.

    Args:
        loss (`torch.FloatTensor` of shape `()`): Sum of the losses below, each times its weight in the configuration.
        lm_loss (`torch.FloatTensor` of shape `()`): Cross-entropy of the supervised tokens.
        camera_loss (`torch.FloatTensor` of shape `()`): Weighted sum of the next three.
        translation_loss (`torch.FloatTensor` of shape `()`): L1 of translation, in teacher units.
        rotation_loss (`torch.FloatTensor` of shape `()`): L1 of the quaternion.
        fov_loss (`torch.FloatTensor` of shape `()`): L1 of the fields of view, in radians.
        depth_loss (`torch.FloatTensor` of shape `()`): Sum of the next two (with `depth_loss_type="l1"`).
        depth_regression_loss (`torch.FloatTensor` of shape `()`): L1 of depth, in teacher units.
        depth_gradient_loss (`torch.FloatTensor` of shape `()`): L1 of depth gradients over four scales.
        scale_loss (`torch.FloatTensor` of shape `()`): L1 of log(1 + metric scale).
        alignment_loss (`torch.FloatTensor` of shape `()`): 1 - cosine to the teacher's features, mean over layers.
        logits (`torch.FloatTensor`): `(batch_size, kept, vocab_size)`; `None` with `labels` and no `logits_to_keep`.
        past_key_values ([`~transformers.Cache`]): As of Qwen3-VL.
        hidden_states (`tuple[torch.FloatTensor]`): As of Qwen3-VL.
        attentions (`tuple[torch.FloatTensor]`): As of Qwen3-VL.
        pose_enc (`tuple[torch.FloatTensor]`): Per clip `(frames, 9)`, as in [`GeometryTargets`].
        depth (`tuple[torch.FloatTensor]`): Per clip `(frames, height, width)`, in teacher units.
        metric_scale (`torch.FloatTensor` of shape `(num_clips,)`): Metres in one teacher unit.
    """

    loss: torch.FloatTensor | None = None
    lm_loss: torch.FloatTensor | None = None
    camera_loss: torch.FloatTensor | None = None
    translation_loss: torch.FloatTensor | None = None
    rotation_loss: torch.FloatTensor | None = None
    fov_loss: torch.FloatTensor | None = None
    depth_loss: torch.FloatTensor | None = None
    depth_regression_loss: torch.FloatTensor | None = None
    depth_gradient_loss: torch.FloatTensor | None = None
    scale_loss: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    pose_enc: tuple[torch.FloatTensor, ...] | None = None
    depth: tuple[torch.FloatTensor, ...] | None = None
    metric_scale: torch.FloatTensor | None = None


class GeoVRForConditionalGeneration(Qwen3VLForConditionalGeneration, GenerationMixin):
    r"""Qwen3-VL that learns, beside language, to say a clip's cameras, depth, metric scale and 3D features.

    Source: arXiv 2606.05833. Four heads read the hidden states of the frames' patches and of the geometry tokens that
    close them. Answering questions needs neither: without `geometry_targets` and `output_geometry` this is the plain
    backbone, at its cost. A plain Qwen3-VL checkpoint loads with freshly initialised heads and geometry tokens.
    """

    config: GeoVRConfig
    _no_split_modules = [
        *Qwen3VLForConditionalGeneration._no_split_modules,
        "CameraHead",
        "DepthHead",
        "ScaleHead",
        "AlignmentHead",
    ]

    # The objectives that touch every pixel or patch; attributes of the model, so that they can be compiled.
    _depth_losses = staticmethod(depth_losses)
    _token_alignment_losses = staticmethod(token_alignment_losses)

    def __init__(self, config: GeoVRConfig):
        # Arguments of `from_pretrained` are set on a configuration that was checked before.
        config.validate()
        # Not the parent's: it would build a second backbone, only to be replaced.
        super(Qwen3VLForConditionalGeneration, self).__init__(config)
        self.model = GeoVRModel(config)
        self.lm_head = LanguageHead(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        for name, head in build_heads(config).items():
            self.add_module(name, head)
        self.post_init()

    def _initialize_weights(self, module, is_custom_code: bool = False):
        # To transformers this is custom code, in which it passes over modules without parameters of their own, heads
        # among them. That protects loaded weights from code that overwrites them; `init` leaves those alone.
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        # Unlike the backbone's fixed deviation, this keeps the size of states at any width: narrow heads would
        # start dead, wide maps overflow. Last layers start small: depth and scale are near one unit then.
        if isinstance(module, (CameraHead, DepthHead, ScaleHead, AlignmentHead)):
            for name, layer in module.named_modules():
                if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                    gain = 0.1 if name in module.last_layers else 1.0
                    init.normal_(layer.weight, mean=0.0, std=gain * fan_in(layer) ** -0.5)
        # Cameras start at the world's, with a field of view on the live side of its ReLU.
        if isinstance(module, CameraHead):
            init.copy_(module.rotation.bias, torch.tensor([0.0, 0.0, 0.0, 1.0]))
            init.ones_(module.field_of_view.bias)

    def save_pretrained(self, save_directory, is_main_process=True, state_dict=None, **kwargs):
        """As in transformers, also of a model that FSDP2 or DeepSpeed has wrapped."""
        if state_dict is not None:
            # Gathered from several processes, tied weights are copies, which transformers does not know for tied.
            state_dict = {name: value for name, value in state_dict.items() if name not in self.all_tied_weights_keys}
        # Names are changed back as they were changed in loading. Under ZeRO-3, transformers also remembers changes
        # that it did not make.
        if getattr(self, "_weight_conversions", None):
            self._weight_conversions = [conversion for conversion in self._weight_conversions if conversion.was_used()]
        wrapped = type(self)
        if wrapped.__name__.startswith("FSDP"):
            self.__class__ = wrapped.__bases__[-1]  # FSDP2 makes a class, which must not travel with the checkpoint
        try:
            return super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        finally:
            self.__class__ = wrapped

    def resize_token_embeddings(self, new_num_tokens=None, pad_to_multiple_of=None, mean_resizing=True):
        """As in transformers. A `ValueError` refuses sizes that would cut the geometry tokens off."""
        ids, multiple = self.config.geometry_token_ids, pad_to_multiple_of or 1
        if new_num_tokens is not None and -(-new_num_tokens // multiple) * multiple <= max(ids):
            raise ValueError(
                f"{new_num_tokens} tokens would cut off the geometry tokens, whose ids are {ids}: at least "
                f"{max(ids) + 1} must remain."
            )
        return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)

    @can_return_tuple
    def forward(  # noqa: D417 (the arguments of Qwen3-VL are documented there)
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        mm_token_type_ids: torch.IntTensor | None = None,
        logits_to_keep: int | torch.Tensor | None = None,
        mm_encoder_outputs: dict | None = None,
        geometry_targets: list[GeometryTargets | None] | None = None,
        output_geometry: bool | None = None,
        num_clips_in_batch: dict[str, int | torch.Tensor] | None = None,
        layout: PackedLayout | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GeoVROutput:
        r"""Qwen3-VL's forward, with geometry on request. Arguments that are not listed are Qwen3-VL's.

        Args:
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Token ids to predict, -100 where nothing is supervised.
            logits_to_keep (`int` or `torch.Tensor`, *optional*):
                As of Qwen3-VL; 0 computes all logits. By default nowhere with `labels`, `layout` or
                `geometry_targets`, else everywhere: a loss needs no logits to be kept, only chunks of them.
            geometry_targets (`list[GeometryTargets | None]`, *optional*):
                What the teacher says, one entry per clip in the order of `video_grid_thw`.
            output_geometry (`bool`, *optional*):
                Whether to return `pose_enc`, `depth` and `metric_scale` of every clip.
            num_clips_in_batch (`dict[str, int]`, *optional*):
                Clips that have the target of each objective, in the whole accumulated batch. Geometric losses are then
                sums over this forward's clips divided by it, else means over its clips.
            layout ([`PackedLayout`], *optional*):
                Says that `input_ids` `(1, N)` are packed rows, in which questions share their clip, and what is
                supervised; there are no `labels`, `attention_mask`, `position_ids` and grids then. Hidden states are
                as of [`GeoVRModel.forward_packed`].
            **kwargs:
                Also `num_items_in_batch`, which does the same for supervised tokens.

        Returns:
            [`GeoVROutput`]

        Raises:
            ValueError: Geometry without `input_ids` or without geometry tokens behind the frames, or targets that do
                not fit the clips.
        """
        geometry = bool(output_geometry) or geometry_targets is not None
        if geometry and input_ids is None:
            raise ValueError("Geometry needs `input_ids`, to find the clips. It cannot be had from `inputs_embeds`.")
        requested_states = kwargs.get("output_hidden_states")
        if geometry and requested_states is not True:
            asked = [requested_states] if type(requested_states) is int else list(requested_states or [])
            kwargs["output_hidden_states"] = [*state_indices(self.config), *asked]

        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            mm_encoder_outputs=mm_encoder_outputs,
            layout=layout,
            **kwargs,
        )
        last_state = outputs.last_hidden_state

        losses = {}
        if layout is not None or labels is not None:
            supervised = self._supervised(labels, kwargs.get("shift_labels"), layout)
            losses["lm_loss"] = self._language_loss(last_state, *supervised, kwargs.get("num_items_in_batch"))
        if logits_to_keep is not None or (not losses and geometry_targets is None):
            kept = slice_logits_to_keep(last_state, 0 if logits_to_keep is None else logits_to_keep)
            logits = self.lm_head(kept)
        else:
            logits = None

        predictions, idle = {}, []
        if geometry:
            states = {i: state for i, state in enumerate(outputs.hidden_states or ()) if state is not None}
            states[self.config.text_config.num_hidden_layers] = last_state
            layouts = self._locate_clips(input_ids, video_grid_thw) if layout is None else layout.clips
            targets = check_targets(
                self.config, layouts, [None] * len(layouts) if geometry_targets is None else geometry_targets
            )
            predictions, clip_losses, idle = self._predict_geometry(states, layouts, targets, bool(output_geometry))
            losses |= self._mean_over_clips(clip_losses, num_clips_in_batch or {})
        elif losses and self.model.calls_all_modules:
            for objective in self.config.objectives:
                idle += self._idle_head(objective, {self.config.text_config.num_hidden_layers: last_state})

        return GeoVROutput(
            loss=self._weighted_sum(losses, idle),
            **losses,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states if requested_states or not geometry else None,
            attentions=outputs.attentions,
            **(predictions if output_geometry else {}),
        )

    def compile_objectives(self):
        """Compile the depth head and the dense losses, in place. Nothing is compiled before it is used."""
        self._depth_losses = torch.compile(depth_losses)
        self._token_alignment_losses = torch.compile(token_alignment_losses)
        for module in self.modules():
            if isinstance(module, DepthHead):
                module.compile_decoding()

    @torch.no_grad()
    def predict_geometry(self, **inputs) -> list[GeoVRGeometry]:
        r"""Predict every clip's cameras, depth and 3D points in metres, without any teacher.

        Args:
            **inputs: What the processor returns for the clips with `geometry_tokens=True`.

        Returns:
            `list[GeoVRGeometry]`: One entry per clip, in the order of `video_grid_thw`, so perhaps none.

        Raises:
            ValueError: The model lacks the camera, depth or scale objective, or a clip lacks geometry tokens.
        """
        missing = [name for name in ("camera", "depth", "scale") if name not in self.config.objectives]
        if missing:
            raise ValueError(
                f"Metric geometry needs the objectives camera, depth and scale; this model lacks {missing}."
            )
        outputs = self(**inputs, output_geometry=True, logits_to_keep=1)
        return [
            metric_geometry(pose_enc, depth, scale)
            for pose_enc, depth, scale in zip(outputs.pose_enc, outputs.depth, outputs.metric_scale, strict=True)
        ]

    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration=True):
        # A chunk could not tell that its first token closes the frame before it.
        if generation_config.prefill_chunk_size is not None and (self.model.geometry_token_rows(input_ids) >= 0).any():
            raise ValueError(
                "`prefill_chunk_size` would part geometry tokens from their frames. Leave it out, or ask with "
                "`geometry_tokens=False`."
            )
        return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)

    @staticmethod
    def _supervised(labels, shift_labels, layout: PackedLayout | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions in the flattened batch that predict a supervised token, and those tokens."""
        if layout is not None:
            return layout.supervised, layout.next_tokens
        next_tokens = F.pad(labels[:, 1:], (0, 1), value=-100) if shift_labels is None else shift_labels
        next_tokens = next_tokens.flatten()
        positions = (next_tokens != -100).nonzero().squeeze(1)
        return positions, next_tokens[positions]

    def _language_loss(self, last_state, positions, next_tokens, num_items_in_batch) -> torch.Tensor:
        """Cross-entropy of the supervised tokens: their mean, or their sum divided by `num_items_in_batch`."""
        states = last_state.flatten(0, 1)[positions.to(last_state.device)]
        next_tokens = next_tokens.to(last_state.device)
        if isinstance(self.lm_head, LanguageHead):
            total = self.lm_head(states, next_tokens)
        else:
            total = adapted_language_loss(self.lm_head, states, next_tokens, self.config.text_config.vocab_size)
        count = max(len(next_tokens), 1) if num_items_in_batch is None else num_items_in_batch
        return total / (count.to(total.device) if isinstance(count, torch.Tensor) else count)

    def _locate_clips(self, input_ids, video_grid_thw) -> list[ClipLayout]:
        if video_grid_thw is None:
            return []
        config = self.config
        return locate_clips(
            input_ids,
            video_grid_thw,
            config.geometry_token_ids,
            config.video_token_id,
            config.vision_config.spatial_merge_size,
        )

    def _predict_geometry(
        self,
        states: dict[int, torch.Tensor],
        layouts: list[ClipLayout],
        targets: list[GeometryTargets | None],
        predict_all: bool,
    ) -> tuple[dict[str, tuple], dict[str, dict], list[torch.Tensor]]:
        """Predictions of the clips that have a target (or of all), losses of clips by objective, idle outputs."""
        config = self.config
        last_state = states[config.text_config.num_hidden_layers]
        predictions, losses, idle = {}, {}, []
        if not layouts:
            # Not `None`, which says that the model lacks the objective.
            nothing = {"camera": ("pose_enc", ()), "depth": ("depth", ())}
            nothing["scale"] = ("metric_scale", torch.zeros(0, device=last_state.device))
            predictions |= [nothing[name] for name in config.objectives if name in nothing]

        def clips_of(objective):
            if objective not in config.objectives:
                return []
            return [i for i, target in enumerate(targets) if predict_all or (target and target.has(objective))]

        def target_of(clip, objective):
            target = targets[clip]
            return target if target is not None and target.has(objective) else None

        # Patches are cut out once per state, whoever reads them.
        aligned = [i for i in range(len(layouts)) if "alignment" in config.objectives and target_of(i, "alignment")]
        dense = sorted({*clips_of("depth"), *aligned})

        @functools.cache
        def patches_of(index):
            return dict(zip(dense, patch_states(states[index], [layouts[i] for i in dense]), strict=True))

        depth_patches = [patches_of(i) for i in config.depth_state_indices] if clips_of("depth") else []
        aligned_patches = [patches_of(i) for i in config.alignment_state_indices] if aligned else []

        if clips := clips_of("camera"):
            tokens = token_states(last_state, [layouts[i] for i in clips], "cameras")
            pose_encs = self.camera_head(torch.cat(tokens)).split([len(token) for token in tokens])
            predictions["pose_enc"] = tuple(pose_encs)
            losses["camera"] = losses_by_shape(
                functools.partial(camera_losses, config),
                [
                    (pose_enc, target.pose_enc)
                    for i, pose_enc in zip(clips, pose_encs, strict=True)
                    if (target := target_of(i, "camera"))
                ],
            )
        else:
            idle += self._idle_head("camera", states)
        if clips := clips_of("depth"):
            depth_targets = [target_of(i, "depth") for i in clips]
            sizes = [None if target is None else tuple(target.depth.shape[-2:]) for target in depth_targets]
            patches = [torch.cat([p[i].flatten(0, 2) for i in clips]) for p in depth_patches]
            grids = [layouts[i].grid for i in clips]
            predictions["depth"] = predict_depth(self.depth_head, config, patches, grids, sizes)
            losses["depth"] = losses_by_shape(
                lambda *clips: self._depth_losses(*clips, config.depth_loss_type),
                [
                    (depth, target.depth, target.depth_confidence)
                    for depth, target in zip(predictions["depth"], depth_targets, strict=True)
                    if target is not None
                ],
            )
        else:
            idle += self._idle_head("depth", states)
        if clips := clips_of("scale"):
            tokens = token_states(last_state, [layouts[i] for i in clips], "scale")
            scales = self.scale_head(torch.cat(tokens))
            predictions["metric_scale"] = scales
            losses["scale"] = losses_by_shape(
                scale_losses,
                [
                    (scale, target.metric_scale)
                    for i, scale in zip(clips, scales, strict=True)
                    if (target := target_of(i, "scale"))
                ],
            )
        else:
            idle += self._idle_head("scale", states)
        if aligned:
            patches = [[p[i] for i in aligned] for p in aligned_patches]
            losses["alignment"] = self._alignment_losses(patches, [targets[i] for i in aligned])
        else:
            idle += self._idle_head("alignment", states)
        return predictions, losses, idle

    def _alignment_losses(self, patches: list[list[torch.Tensor]], targets: list[GeometryTargets]) -> dict:
        """Alignment losses of clips, means over layers. A head takes all clips at once, whatever their shapes."""
        features = [pooled_features(self.config, target, patches[0][0].device) for target in targets]
        by_layer = []
        for layer, head in enumerate(self.alignment_heads):
            teacher = [clip[layer] for clip in features]
            # As published, the states are resized to the teacher's grid, not what the head makes of them.
            states = [
                resize_feature_grid(state, target.shape[1:3])
                for state, target in zip(patches[layer], teacher, strict=True)
            ]
            tokens = self._token_alignment_losses(
                head, *(torch.cat([clip.flatten(0, 2) for clip in clips]) for clips in (states, teacher))
            )
            lengths = [target.shape[:3].numel() for target in teacher]
            by_layer.append(torch.stack([clip.mean() for clip in tokens.split(lengths)]))
        return {"alignment_loss": torch.stack(by_layer).mean(0)}

    def _idle_head(self, objective: str, states: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        """What keeps an objective's head in the graph if no clip has its target, see `idle_modules_geovr`."""
        config = self.config
        if objective not in config.objectives:
            return []
        head = self.alignment_heads if objective == "alignment" else getattr(self, f"{objective}_head")
        if not self.model.calls_all_modules:
            return idle_parameters(head) if self.training else []
        last_state = states[config.text_config.num_hidden_layers]
        indices = {"depth": config.depth_state_indices, "alignment": config.alignment_state_indices}
        nothing = [idle_states(states.get(i, last_state)) for i in indices.get(objective, [])]
        if objective == "depth":
            # Not a single token: on some CPUs, bfloat16 convolutions of one pixel have gradients that are not finite.
            nothing = [state.expand(4, -1) for state in nothing]
            return list(predict_depth(head, config, nothing, [(1, 2, 2)], [None]))
        if objective == "alignment":
            return [layer(state) for layer, state in zip(head, nothing, strict=True)]
        return [head(idle_states(last_state))]

    def _mean_over_clips(self, clip_losses: dict[str, dict], num_clips: dict) -> dict[str, torch.Tensor]:
        return {
            name: values.sum() / num_clips.get(objective, len(values))
            for objective, losses in clip_losses.items()
            for name, values in losses.items()
        }

    def _weighted_sum(self, losses: dict, idle: list[torch.Tensor]) -> torch.Tensor | None:
        names = {"lm": "lm_loss", **{objective: f"{objective}_loss" for objective in self.config.objectives}}
        terms = [
            getattr(self.config, f"{name}_loss_weight") * losses[loss]
            for name, loss in names.items()
            if losses.get(loss) is not None
        ]
        if idle:
            terms.append(idle_term(idle))
        if not terms:
            return None
        return sum(term.to(terms[0].device) for term in terms)
