"""Qwen3-VL's model with geometry tokens among its visual tokens."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, Qwen3VLModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.vision_utils import get_vision_cu_seqlens

from .clip_layout_geovr import geometry_token_rows, predecessors
from .configuration_geovr import GeoVRConfig
from .idle_modules_geovr import idle_parameters, idle_term, is_sharded, several_processes
from .packed_attention_geovr import SHARED_PREFIX, packed_attention_mask
from .packed_layout_geovr import PackedLayout
from .patch_positions_geovr import patch_positions


class PatchProjection(nn.Conv3d):
    """Qwen3-VL's. In training it is a matrix product: the convolution, whose stride is its size, has a slow kernel."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Project patches of shape `(num_patches, *values)`."""
        if not self.training:
            return super().forward(patches)
        return F.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


class GeoVRModel(Qwen3VLModel):
    r"""Qwen3-VL's model, in which geometry tokens close the frames of a clip.

    To the language model they are visual tokens with vectors of their own: they take no rotary position (each shares
    its predecessor's, so later text sits where it would without them) and DeepStack adds nothing at them.
    """

    config: GeoVRConfig

    def __init__(self, config: GeoVRConfig):
        super().__init__(config)
        size = self.visual.patch_embed.proj.kernel_size
        vision = config.vision_config
        self.visual.patch_embed.proj = PatchProjection(vision.in_channels, vision.hidden_size, size, stride=size)
        self.geometry_tokens = nn.Embedding(3, config.text_config.hidden_size)
        self.post_init()

    def __getstate__(self):
        # What collects hidden states cannot be pickled; transformers installs it anew when it finds it missing.
        for module in self.modules():
            vars(module).pop("_output_capturing_hooks_installed", None)
            for key, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__name__", None) == "output_capturing_hook":
                    del module._forward_hooks[key]
        return super().__getstate__()

    @property
    def calls_all_modules(self) -> bool:
        """Whether a module is called even if there is nothing for it to do, see `idle_modules_geovr`."""
        return (self.training and several_processes()) or is_sharded(self.language_model.layers[0])

    def has_geometry_tokens(self, input_ids: torch.LongTensor) -> bool:
        """Whether a clip may be closed by geometry tokens: every such clip ends with `<|scale|>`."""
        return bool((input_ids == self.config.scale_token_id).any())

    def geometry_token_rows(self, input_ids: torch.LongTensor) -> torch.LongTensor:
        """Row of each token in `geometry_tokens`, -1 for every other token. See [`geometry_token_rows`]."""
        return geometry_token_rows(input_ids, self.config.geometry_token_ids, self.config.video_token_id)

    def get_rope_index(
        self,
        input_ids: torch.LongTensor,
        mm_token_type_ids: torch.IntTensor,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Qwen3-VL's positions of the other tokens; a geometry token shares its predecessor's."""
        if not self.has_geometry_tokens(input_ids):
            return super().get_rope_index(
                input_ids, mm_token_type_ids, image_grid_thw, video_grid_thw, attention_mask, **kwargs
            )
        rows = self.geometry_token_rows(input_ids)
        is_geometry = rows >= 0
        attended = torch.ones_like(is_geometry) if attention_mask is None else attention_mask.bool()
        position_ids, rope_deltas = super().get_rope_index(
            input_ids, mm_token_type_ids, image_grid_thw, video_grid_thw, attended & ~is_geometry, **kwargs
        )
        position_ids = position_ids.gather(2, predecessors(rows).expand_as(position_ids))
        # The parent counted the sequence without the geometry tokens; generation counts them.
        return position_ids, rope_deltas - (attended & is_geometry).sum(dim=1, keepdim=True)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        mm_token_type_ids: torch.IntTensor | None = None,
        mm_encoder_outputs: dict | None = None,
        layout: PackedLayout | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ):
        """Qwen3-VL's forward. With `layout`, of packed rows: see [`GeoVRModel.forward_packed`]."""
        if layout is not None:
            return self.forward_packed(
                input_ids,
                layout,
                pixel_values=pixel_values,
                pixel_values_videos=pixel_values_videos,
                output_hidden_states=self._state_indices(kwargs.get("output_hidden_states")),
            )
        idle, device = [], (inputs_embeds if input_ids is None else input_ids).device
        # Generation calls all modules when it reads the prompt, and only there.
        all_modules = (self.training or self.calls_all_modules) and _is_empty(past_key_values)
        if all_modules and mm_encoder_outputs is None:
            mm_encoder_outputs, idle = self._encode_at_once(
                (pixel_values, image_grid_thw), (pixel_values_videos, video_grid_thw), device
            )
            pixel_values = pixel_values_videos = None
        has_clips = pixel_values_videos is not None or bool(mm_encoder_outputs and mm_encoder_outputs.get("video"))
        visible_ids = self._visible_ids(inputs_embeds) if has_clips and input_ids is None else input_ids
        if has_clips and self.has_geometry_tokens(visible_ids):
            rows = self.geometry_token_rows(visible_ids)
            if position_ids is None and input_ids is not None:
                position_ids = self.compute_3d_position_ids(
                    input_ids=input_ids,
                    inputs_embeds=None,
                    image_grid_thw=image_grid_thw,
                    video_grid_thw=video_grid_thw,
                    attention_mask=attention_mask,
                    past_key_values=past_key_values,
                    mm_token_type_ids=mm_token_type_ids,
                )
            # The parent refuses pixels next to encoded inputs, so images are encoded here, too.
            mm_encoder_outputs = dict(mm_encoder_outputs or {})
            if pixel_values is not None:
                mm_encoder_outputs["image"] = self.get_image_features(pixel_values, image_grid_thw, return_dict=True)
            if pixel_values_videos is not None:
                mm_encoder_outputs["video"] = self.get_video_features(
                    pixel_values_videos, video_grid_thw, return_dict=True
                )
            mm_encoder_outputs["video"] = self._close_frames(mm_encoder_outputs["video"], visible_ids, rows)
            pixel_values = pixel_values_videos = None
            if input_ids is not None:
                input_ids = input_ids.masked_fill(rows >= 0, self.config.video_token_id)
            else:
                placeholder = self.get_input_embeddings().weight[self.config.video_token_id]
                inputs_embeds = torch.where((rows >= 0).unsqueeze(-1), placeholder, inputs_embeds)
        elif all_modules:
            idle.append(self.geometry_tokens(torch.zeros(1, dtype=torch.long, device=device)))
        outputs = super().forward(
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
            **kwargs,
        )
        if idle:
            states = outputs.last_hidden_state
            outputs.last_hidden_state = states + idle_term(idle).to(states.device, states.dtype)
        return outputs

    def forward_packed(
        self,
        input_ids: torch.LongTensor,
        layout: PackedLayout,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        output_hidden_states: list[int] | tuple[int, ...] = (),
    ) -> BaseModelOutputWithPast:
        r"""Run packed rows. What Qwen3-VL's forward finds out on the device is in `layout`, so nothing waits for it.

        Args:
            input_ids (`torch.LongTensor` of shape `(1, N)`): Token ids.
            layout ([`PackedLayout`]): Where everything lies.
            pixel_values (`torch.FloatTensor`, *optional*): Patches of pictures, as of Qwen3-VL.
            pixel_values_videos (`torch.FloatTensor`, *optional*): Patches of clips, as of Qwen3-VL.
            output_hidden_states (`list[int]`, *optional*): Hidden states to return, counted as transformers does.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPast`]: States of shape `(1, N, hidden_size)`;
            `hidden_states` has an entry per layer and is `None` where not asked for.

        Raises:
            ValueError: The language model's attention cannot share prefixes.
        """
        language_model = self.language_model
        if language_model.config._attn_implementation != SHARED_PREFIX:
            raise ValueError(
                "Packed rows need attention that shares prefixes: call "
                f'`model.set_attn_implementation({{"text_config": "{SHARED_PREFIX}"}})` first. `GeoVRTrainer` does.'
            )
        states = language_model.embed_tokens(input_ids)
        deepstack = []
        images = (pixel_values, layout.image_grid, layout.image_tokens)
        clips = (pixel_values_videos, layout.video_grid, layout.video_tokens)
        media = [kind for kind in (images, clips) if kind[0] is not None]
        if media:
            pixels, grids, positions = zip(*media, strict=True)
            pixels, grids, positions = _joined(pixels), sum(grids, ()), _joined(positions)
            features = self._encode_frames(pixels, grids)
            states = states.index_copy(1, positions, features.pooler_output[None].to(states.dtype))
            deepstack = features.deepstack_features
        elif idle := self._idle_vision(states.device):
            states = states + idle_term(idle).to(states.dtype)
        vectors = self.geometry_tokens(layout.geometry_rows)
        states = states.index_copy(1, layout.geometry_tokens, vectors[None].to(states.dtype))

        mask, causal_runs = packed_attention_mask(layout), layout.causal_runs
        position_embeddings = language_model.rotary_emb(states, layout.position_ids)
        kept = {0: states} if 0 in output_hidden_states else {}
        for index, layer in enumerate(language_model.layers):
            states = layer(
                states,
                attention_mask=mask,
                position_embeddings=position_embeddings,
                causal_runs=causal_runs,
            )
            if index + 1 in output_hidden_states:
                kept[index + 1] = states  # as transformers: before DeepStack's addition
            if index < len(deepstack):
                states = states.index_add(1, positions, deepstack[index][None].to(states.dtype))
        states = language_model.norm(states)
        if len(language_model.layers) in output_hidden_states:
            kept[len(language_model.layers)] = states  # as transformers: after the norm
        return BaseModelOutputWithPast(
            last_hidden_state=states,
            hidden_states=tuple(kept.get(index) for index in range(len(language_model.layers) + 1)) if kept else None,
        )

    def _state_indices(self, requested: bool | int | list[int] | None) -> list[int]:
        """Hidden states asked for, counted from the embeddings on."""
        count = self.config.text_config.num_hidden_layers + 1
        if isinstance(requested, bool) or requested is None:
            return list(range(count)) if requested else []
        indices = [requested] if isinstance(requested, int) else requested
        return [index % count for index in indices]

    def _encode_frames(self, pixels: torch.Tensor, grid: tuple[tuple[int, int, int], ...]):
        """Run the vision tower on frames whose grid is known on the host."""
        visual, device = self.visual, pixels.device
        interpolation = (visual.num_grid_per_side, visual.interpolation_mode, visual.interpolation_align_corners)
        indices, weights, position_ids = patch_positions(grid, visual.spatial_merge_size, interpolation, device)
        grid_thw = torch.tensor(grid)
        cu_seqlens = get_vision_cu_seqlens(grid_thw)
        # Flash attention reads the lengths on the device, everything else on the host.
        if device.type == "cuda" and "flash_attention" in visual.config._attn_implementation:
            cu_seqlens = cu_seqlens.pin_memory().to(device, non_blocking=True)
        return visual(
            pixels.type(visual.dtype),
            grid_thw=grid_thw,
            interp_indices=indices,
            interp_weights=weights,
            position_ids=position_ids,
            cu_seqlens=cu_seqlens,
            max_seqlen=max(height * width for _, height, width in grid),
        )

    def _idle_vision(self, device: torch.device) -> list[torch.Tensor]:
        """What keeps the vision tower in the graph of a batch without pictures and clips."""
        if not self.calls_all_modules:
            return idle_parameters(self.visual) if self.training else []
        # A black frame of one visual token.
        config = self.visual.config
        side = config.spatial_merge_size
        values = config.in_channels * config.temporal_patch_size * config.patch_size**2
        pixels = torch.zeros(side**2, values, device=device)
        features = self._encode_frames(pixels, ((1, side, side),))
        return [features.pooler_output, *features.deepstack_features]

    def _encode_at_once(self, images: tuple, clips: tuple, device: torch.device) -> tuple[dict, list[torch.Tensor]]:
        """Encode pictures and clips by one call of the vision tower.

        Args:
            images (`tuple`): `pixel_values` and `image_grid_thw`, or `None` for both.
            clips (`tuple`): `pixel_values_videos` and `video_grid_thw`, or `None` for both.
            device (`torch.device`): Where a black frame goes.

        Returns:
            `tuple`: `mm_encoder_outputs` of Qwen3-VL's forward, and, if they are empty, what keeps the vision tower in
            the graph.
        """
        media = {kind: given for kind, given in (("image", images), ("video", clips)) if given[0] is not None}
        if not media:
            return {}, self._idle_vision(device)
        pixels, grids = (_joined(parts) for parts in zip(*media.values(), strict=True))
        encoded = self.get_image_features(pixels, grids, return_dict=True)
        outputs, start = {}, 0
        for kind, (_, grid) in media.items():
            own = slice(start, start + len(grid))
            start += len(grid)
            outputs[kind] = type(encoded)(
                pooler_output=encoded.pooler_output[own],
                deepstack_features=[level[own] for level in encoded.deepstack_features],
            )
        return outputs, []

    def _visible_ids(self, inputs_embeds: torch.FloatTensor) -> torch.LongTensor:
        """Ids of video patches and geometry tokens, told by their embeddings as the parent does, and -1 elsewhere."""
        ids = torch.full(inputs_embeds.shape[:2], -1, device=inputs_embeds.device)
        for token_id in (self.config.video_token_id, *self.config.geometry_token_ids):
            vector = self.get_input_embeddings().weight[token_id]
            ids = ids.masked_fill((inputs_embeds == vector).all(dim=-1), token_id)
        return ids

    def _close_frames(self, features, input_ids: torch.LongTensor, rows: torch.LongTensor):
        """Weave the geometry tokens' vectors into the visual features, and zeros into DeepStack's."""
        visual_rows = rows[(rows >= 0) | (input_ids == self.config.video_token_id)]
        is_patch = visual_rows < 0
        geometry_features = self.geometry_tokens(visual_rows[~is_patch])

        def weave(patches, others):
            patches = torch.cat(tuple(patches), dim=0)
            if len(patches) != is_patch.sum():
                raise ValueError(
                    f"Video features and video tokens do not match, tokens: {is_patch.sum()}, features: {len(patches)}"
                )
            woven = patches.new_zeros(len(visual_rows), patches.shape[-1])
            woven[is_patch] = patches
            if others is not None:
                woven[~is_patch] = others.to(woven.device, woven.dtype)
            return (woven,)

        return type(features)(
            pooler_output=weave(features.pooler_output, geometry_features),
            deepstack_features=[weave(level, None) for level in features.deepstack_features],
        )


def _is_empty(cache: Cache | None) -> bool:
    return cache is None or not cache.get_seq_length()


def _joined(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The parts behind each other, and a single part itself."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
