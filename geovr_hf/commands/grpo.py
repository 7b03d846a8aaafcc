"""Train a model to answer by trying, as a recipe with rewards says (GRPO).

RECIPE is a YAML file, or `grpo`, which comes with the package. Options are overridden as with `geovr train`:

  geovr grpo grpo --model.base runs/geovr-2b --path vsi_590k.jsonl --media_root VSI-590K
  geovr grpo my-recipe.yaml --num_generations 16 --rewards.format 0.2

The prompts are the questions of the recipe's data, their clips encoded as for answering; the rewards compare what the
model says with the answers. Model, processor, card and metrics.json go to the output folder.
"""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from geovr_hf.commands.train import card_callback, card_writer, model_line, starting_point


if TYPE_CHECKING:
    from geovr_hf.hub_cards import GeoVRCardCallback
    from geovr_hf.modeling import GeoVRConfig
    from geovr_hf.recipe import Recipe
    from geovr_hf.trainers import GeoVRGRPOConfig, GeoVRGRPOTrainer

TAKES_OVERRIDES = True

# What a reader of the card wants to know of TRL's hundred arguments.
REPORTED_ARGUMENTS = (
    "learning_rate",
    "lr_scheduler_type",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_steps",
    "num_train_epochs",
    "num_generations",
    "max_completion_length",
    "temperature",
    "beta",
    "epsilon",
    "loss_type",
    "bf16",
    "seed",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `geovr grpo`."""
    parser.add_argument("recipe", help="YAML file with `rewards`, or grpo")
    parser.add_argument("--resume", action="store_true", help="continue from the last whole checkpoint of the output")
    parser.add_argument("--check", action="store_true", help="check every row, too, print what would run, and stop")


def run(arguments: Namespace) -> None:
    """Check, train, save."""
    from geovr_hf.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.rewards is None:
        raise ValueError("The recipe has no `rewards`: add the section, such as `--rewards.answer 1`.")
    checkpoint = starting_point(Path(recipe.output), arguments.resume)
    trainer = build_trainer(recipe, every_row=arguments.check)
    trainer.check_row(0)
    print(summary(recipe, trainer))
    if not arguments.check:
        trainer.train(resume_from_checkpoint=checkpoint)
        finish(trainer, Path(recipe.output))
    trainer.end()


def build_trainer(recipe: "Recipe", every_row: bool = False) -> "GeoVRGRPOTrainer":
    """Build everything that a recipe with rewards names. Teachers are only loaded where their targets are wanted.

    Args:
        recipe ([`Recipe`]): what to build.
        every_row (`bool`, *optional*, defaults to `False`): whether to look at all rows before the model is loaded.

    Raises:
        ValueError: if a part of the recipe cannot be built, or a row is bad.
    """
    from geovr_hf.commands.build_data import build_data
    from geovr_hf.commands.build_model import build_model, build_processor, learnt_objectives
    from geovr_hf.commands.check_rows import check_rows
    from geovr_hf.trainers import GeoVRGRPOConfig, GeoVRGRPOTrainer, geovr_lora_config
    from geovr_hf.trainers.rewards import REWARDS

    arguments = GeoVRGRPOConfig(
        output_dir=recipe.output, reward_weights=list(recipe.rewards.values()), **recipe.training
    )
    objectives = learnt_objectives(recipe.model)
    learns_geometry = arguments.geometry_loss_weight > 0 and len(objectives) > 0
    data = build_data(
        recipe.data,
        recipe.teacher if learns_geometry else None,
        with_features=learns_geometry and "alignment" in objectives,
    )
    if data.evaluation is None and arguments.eval_strategy != "no":
        raise ValueError("`training.eval_strategy` asks for evaluation, but no source of `data` has rows for it.")
    if every_row:
        check_rows(data.files)
    processor = build_processor(recipe.model, recipe.processor, data.texts())
    model = build_model(recipe.model, processor, data.teacher_spec, arguments.seed, learns_geometry)
    peft_config = None
    if recipe.lora is not None:
        peft_config = geovr_lora_config(model, train_merger=not arguments.freeze_merger, **recipe.lora)
        if not learns_geometry:  # heads that stay as they are belong to the base
            peft_config.modules_to_save = recipe.lora.get("modules_to_save")
    return GeoVRGRPOTrainer(
        model,
        [REWARDS[name] for name in recipe.rewards],
        arguments,
        data.train,
        eval_dataset=data.evaluation,
        processing_class=processor,
        teacher=data.online_teacher,
        peft_config=peft_config,
        callbacks=[rewarded_card(recipe, arguments, model.config, card_callback(recipe, data, processor))],
    )


def rewarded_card(
    recipe: "Recipe", arguments: "GeoVRGRPOConfig", config: "GeoVRConfig", callback: "GeoVRCardCallback"
) -> "GeoVRCardCallback":
    """What writes the card of a run, with the facts that only one with rewards has."""
    rewards = ", ".join(f"{name} × {weight:g}" for name, weight in recipe.rewards.items())
    weight = arguments.geometry_loss_weight
    objectives = {name: weight * getattr(config, f"{name}_loss_weight") for name in config.objectives if weight}
    reported = {name: getattr(arguments, name) for name in REPORTED_ARGUMENTS}
    card = callback.data
    card.training_data += f"\n\nAnswers were rewarded (GRPO, arXiv 2402.03300): {rewards}."
    card.objectives = {"policy": 1.0, **objectives}
    card.hyperparameters = {name: value for name, value in reported.items() if value not in (None, False)}
    return callback


def summary(recipe: "Recipe", trainer: "GeoVRGRPOTrainer") -> str:
    """What is about to run, in a few lines."""
    arguments = trainer.args
    completions = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    geometry = f", geometry × {arguments.geometry_loss_weight:g}" if arguments.geometry_loss_weight else ""
    return "\n".join(
        [
            model_line(recipe, trainer.model),
            f"rewards     {', '.join(f'{name} × {weight:g}' for name, weight in recipe.rewards.items())}{geometry}",
            f"data        {len(trainer.train_dataset):,} questions",
            f"batch       {completions} completions per update, {arguments.num_generations} of a question",
            f"output      {recipe.output}",
        ]
    )


def finish(trainer: "GeoVRGRPOTrainer", output: Path) -> None:
    """Save model, processor, state and metrics, write the card last and print how the reward went."""
    from geovr_hf.visualization.atomic_files import atomic_path

    rewards = [entry for entry in trainer.state.log_history if "reward" in entry]
    trainer.save_model(str(output))
    trainer.save_state()
    if not trainer.is_world_process_zero():
        return
    window = max(1, len(rewards) // 10)
    metrics = {"start": mean_rewards(rewards[:window]), "end": mean_rewards(rewards[-window:])}
    with atomic_path(output / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    card_writer(trainer).write(output)
    if rewards:
        print(f"Mean reward {metrics['start']['reward']:.3f} at the start, {metrics['end']['reward']:.3f} at the end")
    print(f"Saved to {output}")


def mean_rewards(entries: list[dict[str, float]]) -> dict[str, float]:
    """The means of all rewards over some entries of the log."""
    names = dict.fromkeys(name for entry in entries for name in entry if name == "reward" or name.endswith("/mean"))
    found = {name: [entry[name] for entry in entries if entry.get(name) is not None] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items() if values}
