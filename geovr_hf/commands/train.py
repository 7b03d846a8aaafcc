"""Train a model as a recipe says.

RECIPE is a YAML file, or the name of one that comes with the package: paper, rgbd, demo. Any of its options can be
overridden, with its section or, where only one section has it, without:

  geovr train rgbd --path recordings/kitchen --output runs/kitchen
  geovr train my-recipe.yaml --training.learning_rate 1e-5 --max_steps 200 --lora.r 16

Before training starts, the recipe is checked, data and model are opened, and a row goes through the model. --check
stops there, and looks at all rows before: whether they are well formed, their media exist and, in a folder of targets,
their targets. It decodes no clip for that. The output folder gets the model, its processor, a model card and
metrics.json.
"""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from geovr_hf.commands.tables import format_table


if TYPE_CHECKING:
    from geovr_hf import GeoVRProcessor, GeoVRTrainer
    from geovr_hf.commands.build_data import RunData
    from geovr_hf.hub_cards import GeoVRCardCallback
    from geovr_hf.recipe import Recipe

TAKES_OVERRIDES = True


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `geovr train`."""
    parser.add_argument("recipe", help="YAML file, or paper, rgbd, demo")
    parser.add_argument("--resume", action="store_true", help="continue from the last whole checkpoint of the output")
    parser.add_argument("--check", action="store_true", help="check every row, too, print what would run, and stop")


def run(arguments: Namespace) -> None:
    """Check, train, evaluate, save."""
    from geovr_hf.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.rewards is not None:
        raise ValueError("The recipe has `rewards`: run it by `geovr grpo`.")
    checkpoint = starting_point(Path(recipe.output), arguments.resume)
    trainer = build_trainer(recipe, every_row=arguments.check)
    for dataset in filter(None, [trainer.train_dataset, trainer.eval_dataset]):
        trainer.check_row(dataset[0])
    print(summary(recipe, trainer))
    if not arguments.check:
        trainer.train(resume_from_checkpoint=checkpoint)
        finish(trainer, Path(recipe.output))
    trainer.end()


def starting_point(output: Path, resume: bool) -> str | None:
    """The checkpoint to continue from, `None` for a new run.

    Raises:
        ValueError: if a new run would overwrite an old one, or there is nothing to resume.
    """
    from geovr_hf.trainers.checkpoints import checkpoint_folders, newest_whole_checkpoint

    if resume:
        return str(newest_whole_checkpoint(output))
    if checkpoint_folders(output) or any((output / name).exists() for name in ("config.json", "adapter_config.json")):
        raise ValueError(f"{output} holds an earlier run. Add --resume to continue it, or choose another --output.")
    return None


def build_trainer(
    recipe: "Recipe",
    data: "RunData | None" = None,
    processor: "GeoVRProcessor | None" = None,
    every_row: bool = False,
) -> "GeoVRTrainer":
    """Build everything that a recipe names.

    Cheap checks come first: training arguments, data files, then the model's weights. The recipe's teacher is not
    opened for a model that has no geometric objectives.

    Args:
        recipe ([`Recipe`]): what to build.
        data (`RunData`, *optional*): its data, if they are open already.
        processor ([`GeoVRProcessor`], *optional*): its processor, if there is one already.
        every_row (`bool`, *optional*, defaults to `False`): whether to look at all rows before the model is loaded.

    Raises:
        ValueError: if a part of the recipe cannot be built, or a row is bad.
    """
    from geovr_hf import GeoVRDataCollator, GeoVRTrainer, GeoVRTrainingArguments
    from geovr_hf.commands.build_data import build_data
    from geovr_hf.commands.build_model import build_model, build_processor, learnt_objectives
    from geovr_hf.commands.check_rows import check_rows
    from geovr_hf.trainers import geovr_lora_config

    arguments = GeoVRTrainingArguments(output_dir=recipe.output, **recipe.training)
    if data is None:
        objectives = learnt_objectives(recipe.model)
        # Who learns language alone was taught by nobody, whatever the recipe says: no teacher, no terms on the card.
        teacher = recipe.teacher if objectives else None
        data = build_data(recipe.data, teacher, with_features="alignment" in objectives)
    if data.evaluation is None and arguments.eval_strategy != "no":
        raise ValueError("`training.eval_strategy` asks for evaluation, but no source of `data` has rows for it.")
    if every_row:
        check_rows(data.files)
    if processor is None:
        processor = build_processor(recipe.model, recipe.processor, data.texts())
    model = build_model(recipe.model, processor, data.teacher_spec, arguments.seed)
    peft_config = None
    if recipe.lora is not None:
        peft_config = geovr_lora_config(model, train_merger=not arguments.freeze_merger, **recipe.lora)
    return GeoVRTrainer(
        model,
        arguments,
        GeoVRDataCollator(processor, keep_frames=data.online_teacher is not None, **arguments.row_options()),
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        teacher=data.online_teacher,
        peft_config=peft_config,
        callbacks=[card_callback(recipe, data, processor)],
    )


def card_callback(recipe: "Recipe", data: "RunData", processor: "GeoVRProcessor") -> "GeoVRCardCallback":
    """What writes the card of a run: the facts that its recipe and data know, and the pictures.

    Args:
        recipe ([`Recipe`]): what runs.
        data (`RunData`): its data.
        processor ([`GeoVRProcessor`]): its processor.
    """
    from geovr_hf.commands.card_pictures import card_pictures
    from geovr_hf.hub_cards import CardTeacher, GeoVRCardCallback, GeoVRModelCardData
    from geovr_hf.hub_cards.lineage import add_networks, checkpoint_networks
    from geovr_hf.recipe import TINY

    networks = {"teacher": data.teacher_spec, "metric": data.metric}
    card = GeoVRModelCardData(
        model_id=Path(recipe.output).absolute().name,
        training_data=data.description,
        num_frames=data.num_frames,
        **{name: network and CardTeacher.of(network) for name, network in networks.items()},
    )
    # The callback asks the model's base, which an adapter that is trained further is not.
    add_networks(card, checkpoint_networks("" if recipe.model.base == TINY else recipe.model.base))
    held_out = data.evaluation is not None
    draw = card_pictures(processor, data.evaluation if held_out else data.train, held_out)
    return GeoVRCardCallback(card, draw=draw)


def model_line(recipe: "Recipe", model) -> str:
    """What is trained of which model."""
    from geovr_hf.hub_cards.card_callback import num_parameters, trained_parameters

    trained = sum(trained_parameters(model).values())
    return f"model       {recipe.model.base}: {trained:,} of {num_parameters(model):,} parameters trained"


def summary(recipe: "Recipe", trainer: "GeoVRTrainer") -> str:
    """What is about to run, in a few lines."""
    model, arguments = trainer.model, trainer.args
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    held_out = 0 if trainer.eval_dataset is None else len(trainer.eval_dataset)
    objectives = model.config.objectives
    unused = ["teacher     not asked: without geometric objectives, language is learnt alone"]
    return "\n".join(
        [
            model_line(recipe, model),
            f"objectives  {', '.join(['language', *objectives])}",
            *(unused if recipe.teacher is not None and not objectives else []),
            f"data        {len(trainer.train_dataset):,} rows to train on, {held_out:,} to evaluate",
            f"batch       {batch} rows per update",
            f"output      {recipe.output}",
        ]
    )


def finish(trainer: "GeoVRTrainer", output: Path) -> None:
    """Evaluate, save model, processor, state and metrics, write the card last and print what changed."""
    from geovr_hf.visualization.atomic_files import atomic_path

    history = trainer.state.log_history
    start = next((entry for entry in history if entry["step"] == 0 and "eval_loss" in entry), {})
    end = trainer.evaluate() if trainer.eval_dataset is not None else {}
    trainer.save_model(str(output))
    trainer.save_state()
    if not trainer.is_world_process_zero():
        return
    with atomic_path(output / "metrics.json") as temporary:
        temporary.write_text(json.dumps({"start": start, "end": end}, indent=2) + "\n", encoding="utf-8")
    card_writer(trainer).write(output)
    if end:
        skipped = ("_runtime", "_per_second", "epoch", "step")
        rows = [name for name in end if not name.endswith(skipped)]
        columns = {"start": start, "end": end} if start else {"end": end}
        print(format_table("held-out rows", columns, rows))
    print(f"Saved to {output}")


def card_writer(trainer: "GeoVRTrainer") -> "GeoVRCardCallback":
    """The callback that knows the facts for the model card."""
    from geovr_hf.hub_cards import GeoVRCardCallback

    return next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, GeoVRCardCallback))
