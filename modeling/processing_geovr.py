"""Processor of GeoVR: Qwen3-VL's, with geometry tokens on request."""

import copy
from contextvars import ContextVar

import torch
from tokenizers import AddedToken
from torch.nn import functional as F
from transformers import Qwen3VLProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessingKwargs, Unpack
from transformers.tokenization_utils_base import PreTokenizedInput, TextInput
from transformers.video_utils import VideoInput, VideoMetadata, make_batched_metadata, make_batched_videos

from .prediction_geovr import GeoVRGeometry, metric_geometry


CAMERA_FIRST_TOKEN = "<|camera_first|>"
CAMERA_TOKEN = "<|camera|>"
SCALE_TOKEN = "<|scale|>"

# Whether this call closes frames. Not an attribute: threads share processors, but no context.
_CLOSES_FRAMES = ContextVar("closes_frames", default=False)


def chat_words(messages: list[dict]) -> str:
    """The words of messages in turns, as the chat template (ChatML) writes them around clips and pictures.

    Args:
        messages (`list[dict]`): Messages with a list of parts as content.

    Returns:
        `str`: Empty without messages.
    """
    turns = []
    for message in messages:
        text = "".join(part["text"] for part in message["content"] if part.get("type") == "text")
        turns.append(f"<|im_start|>{message['role']}\n{text}<|im_end|>\n")
    return "".join(turns)


class GeoVRProcessor(Qwen3VLProcessor):
    r"""Qwen3-VL's processor, which on request makes clips ready for the geometric heads.

    With `geometry_tokens=True` (training and geometry) every frame becomes its own temporal patch, so that frame `t`
    of the language model is frame `t` of the teacher; `<|camera_first|>` or `<|camera|>` closes each frame and
    `<|scale|>` the clip. Without it (the default) clips are read for ordinary question answering, two frames to a
    temporal patch, and no token is added.

    The tokenizer gets the three geometry tokens if it lacks them. In Qwen3-VL's vocabulary they take the ids 151669 to
    151671, which [`GeoVRConfig`] expects, so that no matrix is resized.

    In both modes a clip reads `<0.5 seconds><|vision_start|>…<|vision_end|>` frame by frame, the format that Qwen3-VL
    was trained on. The `<|vision_start|>` and `<|vision_end|>` that its chat template writes around a video are
    dropped; the processor of transformers 5 leaves them around the whole clip (vllm-project/vllm#46817).
    """

    def __init__(self, image_processor=None, tokenizer=None, video_processor=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template, **kwargs)
        tokens = (CAMERA_FIRST_TOKEN, CAMERA_TOKEN, SCALE_TOKEN)
        known = tokenizer.get_vocab()
        missing = [AddedToken(token, special=True, normalized=False) for token in tokens if token not in known]
        if missing:
            tokenizer.add_tokens(missing, special_tokens=True)

    @property
    def geometry_token_ids(self) -> tuple[int, int, int]:
        """Ids of `<|camera_first|>`, `<|camera|>` and `<|scale|>`."""
        return tuple(self.tokenizer.convert_tokens_to_ids([CAMERA_FIRST_TOKEN, CAMERA_TOKEN, SCALE_TOKEN]))

    def __call__(  # noqa: D417 (the arguments of Qwen3-VL are documented there)
        self,
        images: ImageInput | None = None,
        text: TextInput | PreTokenizedInput | list[TextInput] | list[PreTokenizedInput] | None = None,
        videos: VideoInput | None = None,
        geometry_tokens: bool | None = None,
        video_timestamps: list | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        r"""Prepare text, images and clips for the model. Arguments that are not listed are Qwen3-VL's.

        Args:
            videos (`torch.ByteTensor`, `np.ndarray` or list of them, *optional*):
                Clips of shape `(frames, height, width, 3)` or `(frames, 3, height, width)`. Paths, as of Qwen3-VL,
                only where frames are not taken as given.
            geometry_tokens (`bool`, *optional*):
                Whether to make every frame its own temporal patch and to add the geometry tokens. Frames are then
                taken as given, none is sampled away; the limits on a clip's pixels apply per frame as without it. Off
                by default.
            video_timestamps (`list[list[float]]`, *optional*):
                Seconds at which each clip's frames were taken. Frames are then taken as given. `video_metadata`, as of
                Qwen3-VL, may take their place.

        Returns:
            [`~transformers.BatchFeature`]: As of Qwen3-VL.

        Raises:
            ValueError: A clip without frames, or whose frames are still in a file, timestamps that do not match the
                clips' frames, or geometry tokens for a clip whose frame times are unknown.
        """
        if videos is not None and (geometry_tokens or video_timestamps is not None):
            videos, kwargs = self._prepare_clips(videos, geometry_tokens, video_timestamps, kwargs)
        if text is not None:
            wrapped = f"{self.vision_start_token}{self.video_token}{self.vision_end_token}"
            texts = [text] if isinstance(text, str) else text
            text = [sample.replace(wrapped, self.video_token) for sample in texts]
        token = _CLOSES_FRAMES.set(bool(geometry_tokens))
        try:
            return super().__call__(images=images, text=text, videos=videos, **kwargs)
        finally:
            _CLOSES_FRAMES.reset(token)

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Qwen3-VL's. It leaves the processor as it was; transformers marks one that carries its code in passing."""
        try:
            return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        finally:
            vars(self).pop("auto_map", None)

    def replace_video_token(self, video_inputs: dict, video_idx: int, **kwargs) -> str:
        """Qwen3-VL's text for a clip, its frames closed by geometry tokens if asked for."""
        text = super().replace_video_token(video_inputs, video_idx, **kwargs)
        if not _CLOSES_FRAMES.get():
            return text
        frames = text.split(self.vision_end_token)[:-1]
        closed = [frame + (CAMERA_TOKEN if i else CAMERA_FIRST_TOKEN) for i, frame in enumerate(frames)]
        return self.vision_end_token.join([*closed[:-1], closed[-1] + SCALE_TOKEN]) + self.vision_end_token

    def post_process_geometry(self, outputs, target_sizes: list[tuple[int, int]] | None = None) -> list[GeoVRGeometry]:
        r"""Bring the geometry of a model's output to metres, and to a size in pixels.

        Args:
            outputs ([`GeoVROutput`]): Output of the model with `output_geometry=True`.
            target_sizes (`list[tuple[int, int]]`, *optional*):
                Height and width of each clip's depth maps, by default as predicted. Depth is resized bilinearly;
                intrinsics and points follow.

        Returns:
            `list[GeoVRGeometry]`: One entry per clip.

        Raises:
            ValueError: The output has no geometry, or the sizes are not as many as the clips.
        """
        if outputs.pose_enc is None or outputs.depth is None or outputs.metric_scale is None:
            raise ValueError(
                "The output has no cameras, depth or metric scale. Call a model that has these objectives with "
                "`output_geometry=True`."
            )
        depths = list(outputs.depth)
        if target_sizes is not None:
            if len(target_sizes) != len(depths):
                raise ValueError(f"`target_sizes` has {len(target_sizes)} entries for {len(depths)} clips.")
            depths = [
                F.interpolate(depth.float()[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
                for depth, size in zip(depths, target_sizes, strict=True)
            ]
        return [
            metric_geometry(pose_enc, depth, scale)
            for pose_enc, depth, scale in zip(outputs.pose_enc, depths, outputs.metric_scale, strict=True)
        ]

    def _prepare_clips(self, videos, geometry_tokens: bool | None, timestamps, kwargs: dict) -> tuple[list, dict]:
        """Clips and the arguments under which the parent takes their frames as given."""
        # The parent refuses arguments that are given both ways, and would apply a size of clips to images, too.
        kwargs = dict(kwargs)
        clip_kwargs = dict(kwargs.pop("videos_kwargs", None) or {})
        for name in ("video_metadata", "do_sample_frames"):
            if name in kwargs:
                clip_kwargs[name] = kwargs.pop(name)
        videos = make_batched_videos(videos)
        for i, video in enumerate(videos):
            if not hasattr(video, "shape"):
                raise ValueError(
                    f"Clip {i} is no array of frames, but {video!r:.80}. Geometry tokens and timestamps need the "
                    "frames themselves: read them by `geovr_hf.data.read_clip`."
                )
        if timestamps is not None:
            if len(timestamps) != len(videos):
                raise ValueError(f"`video_timestamps` has {len(timestamps)} entries for {len(videos)} clips.")
            # A clock of one tick per second makes the frame indices the timestamps themselves.
            metadata = [
                VideoMetadata(total_num_frames=len(video), fps=1.0, frames_indices=[float(t) for t in times])
                for video, times in zip(videos, timestamps, strict=True)
            ]
        else:
            # Copied, as frames are about to be repeated in it.
            metadata = copy.deepcopy(make_batched_metadata(videos, video_metadata=clip_kwargs.get("video_metadata")))

        repeats = self.video_processor.temporal_patch_size
        clips = []
        for i, (video, times) in enumerate(zip(videos, metadata, strict=True)):
            video = torch.as_tensor(video)
            indices = range(len(video)) if times.frames_indices is None else times.frames_indices
            indices = indices.tolist() if hasattr(indices, "tolist") else list(indices)
            if len(video) == 0:
                raise ValueError(f"Clip {i} has no frames.")
            if len(indices) != len(video):
                raise ValueError(f"Clip {i} has {len(video)} frames, but {len(indices)} timestamps.")
            if geometry_tokens and times.fps is None:
                raise ValueError(
                    f"Geometry tokens stand behind real timestamps, but the frame times of clip {i} are unknown. Pass "
                    "`video_timestamps`, or `video_metadata` with `fps`."
                )
            if geometry_tokens:
                video = video.repeat_interleave(repeats, dim=0)
                indices = [index for index in indices for _ in range(repeats)]
            elif len(video) < repeats:
                video = video[[*range(len(video)), *[-1] * (repeats - len(video))]]
                indices += indices[-1:] * (repeats - len(indices))
            times.frames_indices = indices
            clips.append(video)

        clip_kwargs |= {"video_metadata": metadata, "do_sample_frames": False}
        if geometry_tokens:
            if "size" in kwargs:
                size = kwargs.pop("size")
                kwargs["images_kwargs"] = {"size": size, **(kwargs.get("images_kwargs") or {})}
                clip_kwargs.setdefault("size", size)
            size = clip_kwargs.get("size") or self.video_processor.size
            clip_kwargs["size"] = {edge: size[edge] * repeats for edge in ("shortest_edge", "longest_edge")}
        return clips, {**kwargs, "videos_kwargs": clip_kwargs}
