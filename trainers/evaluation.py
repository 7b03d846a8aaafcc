"""Answering an evaluation set by generation."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from geovr_hf.modeling.idle_modules_geovr import is_sharded
from geovr_hf.trainers.metrics import score_answer


@dataclass
class Answer:
    """One answered question.

    Args:
        id (`str`, *optional*): The row's `id`.
        question_type (`str`, *optional*): The row's `question_type`.
        prediction (`str`): What the model wrote.
        answer (`str`): The reference.
        score (`float`): In `[0, 1]`, see [`~geovr_hf.trainers.metrics.score_answer`].
    """

    id: str | None
    question_type: str | None
    prediction: str
    answer: str
    score: float


def answer_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataloader: DataLoader,
    accelerator: Accelerator,
    max_new_tokens: int,
    show_progress: bool = True,
) -> list[Answer]:
    r"""Generate and score an answer to every question, greedily.

    Args:
        model ([`~transformers.PreTrainedModel`]): A model in evaluation mode.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        dataloader (`DataLoader`): Batches of [`~geovr_hf.trainers.data_collator.GeoVRAnswerCollator`], prepared by
            `accelerator`.
        accelerator ([`~accelerate.Accelerator`]): What shares the rows among processes and gathers the answers.
        max_new_tokens (`int`): Longest answer.
        show_progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar on the main process.

    Returns:
        `list[Answer]`: On every process the answers of all, in the order of the rows. Rows without a reference are
        left out.
    """
    generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        # Training switches the model configuration's cache off.
        use_cache=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Where parameters are sharded, a process that has finished its answers gathers on for the others.
    together = accelerator.num_processes > 1 and is_sharded(model)
    answers = []
    progress = tqdm(dataloader, desc="Answering", disable=not (show_progress and accelerator.is_local_main_process))
    for batch in progress:
        inputs = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        with torch.no_grad(), accelerator.autocast():
            sequences = model.generate(**inputs, generation_config=generation_config, synced_gpus=together)
        predictions = tokenizer.batch_decode(sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        rows = list(zip(batch["id"], batch["question_type"], predictions, batch["answer"], strict=True))
        answers += accelerator.gather_for_metrics(rows, use_gather_object=True)
    return [
        Answer(row_id, question_type, prediction, answer, score_answer(prediction, answer))
        for row_id, question_type, prediction, answer in answers
        if answer
    ]
