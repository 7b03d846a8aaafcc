"""GeoVR, and plain Qwen3-VL, as a model of lmms-eval: `lmms_eval --model geovr --model_args pretrained=…`."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageTextToText

from geovr_hf.commands.checkpoints import Checkpoint, load_checkpoint
from geovr_hf.data import read_clip
from geovr_hf.data.clip import Clip
from geovr_hf.evaluation.journal import AnswerJournal
from geovr_hf.evaluation.shared_clip import generate_after_clip, split_prompt
from geovr_hf.evaluation.views import SEEN, VIEWS
from geovr_hf.modeling import GeoVRProcessor


MAX_NEW_TOKENS = 128  # for a task that does not say
_CLIPS_IN_MEMORY = 4
_SAMPLING_OPTIONS = ("temperature", "top_p", "top_k")


@dataclass
class _Question:
    """One request: what is asked, and with which settings it is answered."""

    key: str
    task: str
    doc_id: int
    messages: list[dict[str, Any]]
    generation: dict[str, Any]
    text: str
    clips: list[Clip] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)

    @property
    def video(self) -> str:
        """Its first video."""
        return next((str(part["url"]) for part in _parts(self.messages) if part["type"] == "video"), "")

    @property
    def shape(self) -> tuple[int, ...]:
        """What questions must share to be one batch without changing one another's frames: frames of each clip."""
        return tuple(len(clip) for clip in self.clips)


class GeoVRBenchmarkModel(lmms):
    r"""A GeoVR or plain Qwen3-VL checkpoint that answers lmms-eval's questions.

    Frames are chosen by presentation time and read with PyAV. Decoding is greedy unless a task asks for sampling;
    what a checkpoint's own settings say of that plays no part. Processes that accelerate has started share the
    questions.

    Args:
        pretrained (`str`): Folder or Hub id.
        num_frames (`int`, *optional*, defaults to 32): Frames of a clip; with `fps`, at most that many.
        fps (`float`, *optional*): Frames per second instead.
        tokens_per_frame (`int`, *optional*): Largest frame, in visual tokens (squares of 32 pixels). By default the
            processor's own limits.
        geometry_tokens (`bool`, *optional*, defaults to `False`): Close frames with geometry tokens, one frame to a
            temporal patch, as in training. Without, clips are read as the published evaluation reads them.
        batch_size (`int`, *optional*, defaults to 1): Questions answered together. With 1, the model reads a clip once
            and answers all questions about it one after the other; so it does whenever a task samples, since a sample
            must not depend on the questions beside it.
        device (`str`, *optional*): By default the process's own GPU, or the CPU.
        dtype (`str`, *optional*, defaults to `"auto"`): Name of a torch dtype, or `"auto"` for the checkpoint's own.
        system_prompt (`str`, *optional*): Text of a system turn. None by default, as in training.
        view (`str`, *optional*, defaults to `"seen"`): What is shown of each clip, see
            [`~geovr_hf.evaluation.views`].
        seed (`int`, *optional*, defaults to 0): Of sampling.
        journal (`str`, *optional*): Folder that keeps every answer as soon as it is given, and from which answers are
            taken instead of being computed again.

    Raises:
        ValueError: Geometry tokens for a checkpoint without geometric heads, or a checkpoint of another kind.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        num_frames: int = 32,
        fps: float | None = None,
        tokens_per_frame: int | None = None,
        geometry_tokens: bool = False,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str = "auto",
        system_prompt: str | None = None,
        view: str = SEEN,
        seed: int = 0,
        journal: str | Path | None = None,
        max_batch_size: int | None = None,  # what lmms-eval passes to every model
    ):
        super().__init__()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = torch.device(device or self.accelerator.device)
        self.checkpoint = load_answering_checkpoint(pretrained, str(self.device), dtype)
        if geometry_tokens and self.checkpoint.model.config.model_type != "geovr":
            raise ValueError(
                f"{pretrained} has no geometry tokens: it is a `{self.checkpoint.model.config.model_type}` checkpoint."
            )
        self.num_frames, self.fps, self.tokens_per_frame = num_frames, fps, tokens_per_frame
        self.geometry_tokens, self.batch_size = geometry_tokens, int(batch_size)
        self.system_prompt, self.view, self.seed = system_prompt, view, seed
        self.journal = None if journal is None else AnswerJournal(journal, self._rank)
        self._clips: OrderedDict[str, Clip] = OrderedDict()

    def clean(self) -> None:
        """Keep the model: further views and tasks need it."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered: the benchmarks of this field generate."""
        raise NotImplementedError("`geovr` answers by generation; it computes no likelihoods.")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("`geovr` answers one turn; it holds no conversations.")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer questions.

        Args:
            requests (`list[Instance]`): lmms-eval's requests.

        Returns:
            `list[str]`: The answers, in the order of the requests.

        Raises:
            UnreadableClipError: A video cannot be read. What was answered before is in the journal.
        """
        questions = [self._question(request) for request in requests]
        answers = {}
        for question in questions:
            if self.journal is not None and question.key in self.journal:
                answers[question.key] = self.journal[question.key]["answer"]
        # Questions about one video follow each other, so that it is decoded once.
        open_questions = {q.key: q for q in questions if q.key not in answers}
        ordered = sorted(open_questions.values(), key=lambda q: (json.dumps(q.generation, sort_keys=True), q.video))
        batches = list(self._batches(ordered))
        title = f"Answering ({self.view})"
        with (
            ThreadPoolExecutor(max_workers=1) as reader,
            tqdm(total=len(ordered), desc=title, unit="question", disable=self.rank != 0) as progress,
        ):
            ahead = [reader.submit(self._prepare, batch) for batch in batches[:2]]
            for number in range(len(batches)):
                prepared = ahead.pop(0).result()
                if number + 2 < len(batches):
                    ahead.append(reader.submit(self._prepare, batches[number + 2]))
                for group, inputs in prepared:
                    shape = group[0].shape
                    for question, (answer, prompt_tokens) in zip(group, self._answer(group, inputs), strict=True):
                        answers[question.key] = answer
                        self._keep(question, answer, shape, prompt_tokens)
                        progress.update()
                    for question in group:
                        question.clips.clear()  # or all frames of the benchmark would stay in memory
        return [answers[question.key] for question in questions]

    # ---- questions ----

    def _question(self, request: Instance) -> _Question:
        context, doc_to_messages, generation, doc_id, task, split = request.args
        messages = [
            {"role": message["role"], "content": _as_parts(message["content"])}
            for message in doc_to_messages(self.task_dict[task][split][doc_id])
        ]
        if self.system_prompt:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": self.system_prompt}]})
        text = self._text(messages)
        identity = [task, doc_id, self.view, generation, text, _fingerprint(messages)]
        key = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:32]
        return _Question(key, task, doc_id, messages, generation, text)

    def _batches(self, questions: Sequence[_Question]) -> Iterator[list[_Question]]:
        for _, alike in groupby(questions, key=lambda q: q.generation):
            alike = list(alike)
            if not self._one_by_one(alike[0]):
                yield from (alike[start : start + self.batch_size] for start in range(0, len(alike), self.batch_size))
                continue
            # Questions that share all up to the end of their one clip make one batch.
            for shared, together in groupby(alike, key=self._shared_part):
                together = list(together)
                yield from [[question] for question in together] if shared is None else [together]

    def _one_by_one(self, question: _Question) -> bool:
        """Whether questions are answered one after the other: rows of one batch share the state that samples."""
        return self.batch_size == 1 or generation_options(question.generation)["do_sample"]

    def _shared_part(self, question: _Question) -> tuple[str, str, str] | None:
        """What a question has in common with those that can go on from the same clip; `None` if it stands alone."""
        kinds = [part["type"] for part in _parts(question.messages) if part["type"] != "text"]
        split = split_prompt(self.checkpoint.processor, question.text)
        if kinds != ["video"] or split is None or generation_options(question.generation)["num_beams"] > 1:
            return None
        return json.dumps(question.generation, sort_keys=True), question.video, split[0]

    def _keep(self, question: _Question, answer: str, shape: tuple[int, ...], prompt_tokens: int) -> None:
        if self.journal is None:
            return
        record = {"task": question.task, "view": self.view, "doc_id": question.doc_id, "answer": answer}
        shown = {"num_frames": sum(shape), "clip_frames": max(shape, default=0), "prompt_tokens": prompt_tokens}
        self.journal.add(question.key, {**record, **shown})

    # ---- inputs ----

    def _prepare(self, batch: list[_Question]) -> list[tuple[list[_Question], dict[str, torch.Tensor]]]:
        """Read what a batch shows and turn it into inputs, apart for clips of different length.

        Questions that go on from one clip have the inputs of the first of them.
        """
        shared = self._one_by_one(batch[0])
        for question in batch[:1] if shared else batch:
            for part in _parts(question.messages):
                if part["type"] == "video":
                    question.clips.append(VIEWS[self.view](self._read(part["url"])))
                elif part["type"] == "image":
                    question.images.append(self._image(part["url"]))
        if shared:
            return [(batch, self._inputs(batch[:1]))]
        prepared = []
        for shape in dict.fromkeys(question.shape for question in batch):
            group = [question for question in batch if question.shape == shape]
            prepared.append((group, self._inputs(group)))
        return prepared

    def _inputs(self, group: list[_Question]) -> dict[str, torch.Tensor]:
        clips = [clip for question in group for clip in question.clips]
        images = [image for question in group for image in question.images]
        options: dict[str, Any] = {}
        if clips:
            options["videos"] = [clip.frames for clip in clips]
            options["video_timestamps"] = [clip.timestamps.tolist() for clip in clips]
            if self.tokens_per_frame is not None:
                size = {"size": self._size(max(map(len, clips)))}
                options |= {"videos_kwargs": size} if images else size
        if images:
            options["images"] = images
        return dict(
            self.checkpoint.processor(
                text=[question.text for question in group],
                **options,
                geometry_tokens=self.geometry_tokens,
                padding=True,
                padding_side="left",
                return_tensors="pt",
            )
        )

    def _text(self, messages: Sequence[dict[str, Any]]) -> str:
        plain = [
            {
                **message,
                "content": [{k: part[k] for k in ("type", "text") if k in part} for part in message["content"]],
            }
            for message in messages
        ]
        return self.checkpoint.processor.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)

    def _size(self, num_frames: int) -> dict[str, int]:
        """Limits on the pixels of a whole clip."""
        video_processor = self.checkpoint.processor.video_processor
        side = video_processor.patch_size * video_processor.merge_size
        most = num_frames * self.tokens_per_frame * side**2
        return {"shortest_edge": min(video_processor.size["shortest_edge"], most), "longest_edge": most}

    def _read(self, path: str) -> Clip:
        path = str(path)
        if path not in self._clips:
            if self.fps is None:
                clip = read_clip(path, num_frames=self.num_frames)
            else:
                clip = read_clip(path, fps=self.fps, max_frames=self.num_frames)
            self._clips[path] = clip
            if len(self._clips) > _CLIPS_IN_MEMORY:
                self._clips.popitem(last=False)
        self._clips.move_to_end(path)
        return self._clips[path]

    def _image(self, image: Image.Image | str) -> Image.Image:
        opened = image if isinstance(image, Image.Image) else Image.open(image)
        opened = opened.convert("RGB")
        return Image.new("RGB", opened.size) if self.view == "black" else opened

    # ---- answers ----

    def _answer(self, group: list[_Question], inputs: dict[str, torch.Tensor]) -> Iterator[tuple[str, int]]:
        """Each question's answer and the number of tokens of its prompt."""
        model, processor = self.checkpoint.model, self.checkpoint.processor
        tokenizer = processor.tokenizer
        options = {**generation_options(group[0].generation), "pad_token_id": tokenizer.pad_token_id}
        stops = [stop for stop in group[0].generation.get("until") or () if stop.strip()]
        # A sample depends on its question and the seed, not on what was answered before.
        seeds = [int(question.key[:15], 16) ^ self.seed for question in group]
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        if len(group) > len(inputs["input_ids"]):
            tails = [split_prompt(processor, question.text)[1] for question in group]
            sequences = generate_after_clip(model, processor, inputs, tails, options, seeds)
            lengths = self._prompt_lengths(inputs, tails)
        else:
            if options["do_sample"]:
                torch.manual_seed(seeds[0])
            with torch.inference_mode():
                sequences = model.generate(**inputs, **options)
            lengths = [(inputs["input_ids"].shape[1], int(mask.sum())) for mask in inputs["attention_mask"]]
        for sequence, (padded, tokens) in zip(sequences, lengths, strict=True):
            yield _cut(tokenizer.decode(sequence[padded:], skip_special_tokens=True), stops).strip(), tokens

    def _prompt_lengths(self, inputs: dict[str, torch.Tensor], tails: Sequence[str]) -> list[tuple[int, int]]:
        tokenizer = self.checkpoint.processor.tokenizer
        counts = [len(tokenizer(tail, add_special_tokens=False)["input_ids"]) for tail in tails]
        prefix = inputs["input_ids"].shape[1] - counts[0]
        return [(prefix + count, prefix + count) for count in counts]


def load_answering_checkpoint(name: str, device: str, dtype: str = "auto") -> Checkpoint:
    """Load a GeoVR checkpoint, or a plain Qwen3-VL one such as an export.

    Both get GeoVR's processor, so that a question reads the same for both.

    Args:
        name (`str`): Folder or Hub id.
        device (`str`): Where to put the model.
        dtype (`str`, *optional*, defaults to `"auto"`): Name of a torch dtype, or `"auto"`.

    Raises:
        OSError: There is no such checkpoint.
        ValueError: A checkpoint of another kind.
    """
    kind = AutoConfig.from_pretrained(name).model_type
    if kind == "geovr":
        return load_checkpoint(name, device, dtype)
    if kind != "qwen3_vl":
        raise ValueError(
            f"{name} is a `{kind}` checkpoint. Only GeoVR and Qwen3-VL are run here; run others by lmms-eval itself."
        )
    model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype).to(device)
    return Checkpoint(model.eval(), GeoVRProcessor.from_pretrained(name))


def generation_options(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `generate` for a task's generation settings: greedy unless they ask for sampling.

    Args:
        settings (`dict`): lmms-eval's `generation_kwargs`.

    Returns:
        `dict`: Complete in what decides an answer, so that a checkpoint's own settings play no part.
    """
    temperature = settings.get("temperature")
    sampling = bool(settings.get("do_sample", (temperature or 0) > 0)) and temperature != 0
    options = {name: settings.get(name) if sampling else None for name in _SAMPLING_OPTIONS}
    return {
        "do_sample": sampling,
        **options,
        "num_beams": settings.get("num_beams") or 1,
        "max_new_tokens": int(settings.get("max_new_tokens") or MAX_NEW_TOKENS),
        "repetition_penalty": settings.get("repetition_penalty") or 1.0,
        "use_cache": True,
    }


def _as_parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _parts(messages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        yield from message["content"]


def _fingerprint(messages: Sequence[dict[str, Any]]) -> list[Any]:
    """What decides an answer beside the rendered text: names of media; pictures by their pixels."""
    found = []
    for part in _parts(messages):
        url = part.get("url")
        if isinstance(url, Image.Image):
            url = hashlib.sha256(url.convert("RGB").tobytes()).hexdigest()
        elif part["type"] == "video":
            # Not the folder: data may be moved while a run is interrupted.
            url = "/".join(Path(str(url)).parts[-2:])
        if part["type"] != "text":
            found.append([part["type"], url])
    return found


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
