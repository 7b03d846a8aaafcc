"""A recipe is checked in full before anything is done, and what is wrong is named."""

import pytest
import yaml

from geovr_hf.recipe import RoomsSource, RowsSource, load_recipe, recipe_path
from geovr_hf.recipe_parsing import parse_overrides


MINIMAL = """
output: run
model:
  base: tiny
data:
  sources:
    - format: rooms
      num_rooms: 3
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


class TestOwnRecipes:
    @pytest.mark.parametrize("name", ["paper", "demo", "rgbd", "grpo"])
    def test_every_recipe_of_the_package_is_valid(self, name):
        assert load_recipe(name).output

    def test_the_paper_recipe_states_the_published_setting(self):
        recipe = load_recipe("paper")
        assert [type(source) for source in recipe.data.sources] == [RowsSource, RowsSource]
        assert (recipe.data.fps, recipe.data.min_frames, recipe.data.max_frames) == (2, 4, 32)
        assert recipe.training["learning_rate"] == 2e-5
        assert recipe.training["geometry_learning_rate"] == 1e-4
        assert recipe.training["camera_loss_weight"] == 2.5
        assert recipe.teacher.name == "facebook/VGGT-1B"

    def test_rewards_make_a_recipe_of_grpo_with_trls_arguments(self):
        recipe = load_recipe("grpo", ["--num_generations", "4", "--rewards.exact_choice", "2"])
        assert recipe.rewards == {"answer": 1.0, "format": 0.1, "exact_choice": 2.0}
        assert recipe.training["num_generations"] == 4 and recipe.training["geometry_loss_weight"] == 0.0
        with pytest.raises(ValueError, match="Unknown option `training.camera_loss_weight`"):
            load_recipe("grpo", ["--training.camera_loss_weight", "1"])
        with pytest.raises(ValueError, match="Unknown option `num_generations`"):
            load_recipe("paper", ["--num_generations", "4"])
        with pytest.raises(ValueError, match="`rewards.answer` must be a number, got 'much'"):
            load_recipe("grpo", ["--rewards.answer", "much"])

    def test_an_unknown_name_lists_the_recipes_there_are(self):
        with pytest.raises(ValueError, match=r"No recipe 'papier'.* demo, grpo, paper, rgbd"):
            recipe_path("papier")


class TestLoading:
    def test_a_recipe_becomes_typed_sections_with_defaults(self, write):
        recipe = load_recipe(write(MINIMAL))
        assert recipe.data.sources == [RoomsSource(format="rooms", num_rooms=3)]
        assert recipe.data.on_bad_sample == "raise"
        assert recipe.teacher is None and recipe.lora is None and recipe.training == {}

    @pytest.mark.parametrize("number", ["2e-5", "2.0e-5", "0.00002"])
    def test_numbers_are_read_as_people_write_them(self, write, number):
        recipe = load_recipe(write(MINIMAL + f"training:\n  learning_rate: {number}\n"))
        assert recipe.training["learning_rate"] == 2e-5

    def test_options_of_the_teacher_are_those_of_what_opens_it(self, write):
        options = "{device: cpu, dtype: float32, poses: published, frames_chunk_size: 4, revision: main}"
        recipe = load_recipe(write(MINIMAL + f"teacher: {{name: a/b, options: {options}}}\n"))
        assert recipe.teacher.options == yaml.safe_load(options)
        recipe = load_recipe(write(MINIMAL + "teacher: {targets: t, options: {missing: none}}\n"))
        assert recipe.teacher.options == {"missing": "none"}
        load_recipe(write(MINIMAL + "teacher: {name: rgbd, options: {folder: f}}\n"))

    def test_an_empty_section_means_defaults(self, write):
        assert load_recipe(write(MINIMAL + "training:\nprocessor:\n")).processor.max_clip_pixels is None

    @pytest.mark.parametrize(
        ("addition", "message"),
        [
            ("traning:\n  seed: 1\n", "Unknown option `traning`. Did you mean `training`?"),
            ("training:\n  learning_rat: 1\n", "`learning_rat` in `training`. Did you mean `learning_rate`?"),
            ("training:\n  learning_rate: fast\n", "`training.learning_rate` must be a number, got 'fast'"),
            ("training:\n  max_steps: 1.5\n", "`training.max_steps` must be a whole number, got 1.5"),
            ("training:\n  bf16: 1\n", "`training.bf16` must be true or false or null, got 1"),
            ("training:\n  output_dir: x\n", "Unknown option `output_dir` in `training`"),
            ("training: 3\n", "`training` must be a section of options, got 3"),
            ("teacher:\n  metric: x\n", "`teacher` needs `name`, a network, or `targets`, a folder"),
            ("teacher: {name: a/b, targets: t}\n", "and not both: got 'a/b' and 't'."),
            ("teacher: {targets: t, metric: m}\n", "leave out `teacher.metric`, got 'm'"),
            ("teacher: {name: a/b, options: {dtyp: float32}}\n", "`dtyp` in `teacher.options`. Did you mean `dtype`?"),
            (
                "teacher: {name: a/b, options: {compile: 3}}\n",
                "`teacher.options.compile` must be true or false",
            ),
            ("teacher: {targets: t, options: {device: cpu}}\n", "`teacher.options`. Known are: missing."),
            ("lora:\n  rank: 8\n", "`lora` adapts a checkpoint, which `model.base: tiny` is not"),
            ("output: again\n", "the option `output` is given twice"),
            ("model: [\n", "recipe.yaml: "),
        ],
    )
    def test_what_is_wrong_is_named(self, write, addition, message):
        with pytest.raises(ValueError) as caught:
            load_recipe(write(MINIMAL + addition))
        assert message in str(caught.value)
        assert "recipe.yaml" in str(caught.value)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("  base: tiny", "  bse: tiny", "Unknown option `bse` in `model`. Did you mean `base`?"),
            ("  base: tiny", "  dtype: float32", "`model.base` is missing"),
            ("  base: tiny", "  base: tiny\n  dtype: float8", "`model.dtype` must be one of 'float32'"),
            (
                "  base: tiny",
                "  base: x\n  tiny: {num_layers: 2}",
                "`model.tiny` sizes a model with `model.base",
            ),
            ("  base: tiny", "  base: tiny\n  load_in_4bit: true", "`model.load_in_4bit` quantizes a checkpoint"),
            ("  base: tiny", "  base: tiny\n  tiny: {layers: 2}", "Unknown option `layers` in `model.tiny`"),
            ("  base: tiny", "  base: x\nlora:\n  rank: 8", "Unknown option `rank` in `lora`"),
            ("  base: tiny", "  base: tiny\n  config: {objectivs: []}", "Did you mean `objectives`?"),
            ("format: rooms", "format: romms", "`data.sources.0` must be a mapping with a `format`"),
            ("num_rooms: 3", "number: 3", "Unknown option `number` in `data.sources.0`"),
            ("num_rooms: 3", "seed: 3", "`data.sources.0.num_rooms` is missing"),
            ("output: run", "seed: 1", "Unknown option `seed`"),
            ("output: run\n", "", "`output` is missing"),
            ("data:", "data:\n  image_rate: 0", "`data.image_rate` must be positive, got 0"),
            ("data:", "data:\n  num_frames: 4\n  fps: 2", "Give `data.num_frames` or `data.fps`, not both"),
            ("  base: tiny", "  base: tiny\n  config: {teacher: a/b}", "`model.config.teacher` tells who taught"),
            (
                "rooms\n      num_rooms: 3",
                "rows\n      path: r\n      media_root: m\n      limit: -1",
                "least 1, or null",
            ),
        ],
    )
    def test_a_wrong_section_is_refused(self, write, old, new, message):
        with pytest.raises(ValueError) as caught:
            load_recipe(write(MINIMAL.replace(old, new)))
        assert message in str(caught.value)

    @pytest.mark.parametrize("words", [[], ["--teacher.name", "x", "--num_frames", "2", "--objectives", "[]"]])
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"teacher": "permissive"},
                "`teacher` must be a section of options, got 'permissive'. Did you mean",
            ),
            (
                {"model": "tinyqwen"},
                "`model` must be a section of options, got 'tinyqwen'. Did you mean `model",
            ),
            ({"lora": True}, "`lora` must be a section of options, got True. Set its options one by one"),
            ({"data": "rows.jsonl"}, "`data` must be a section of options, got 'rows.jsonl'."),
            ({"data": [{"format": "rooms"}]}, "`data` must be a section of options, got [{"),
            (
                {"data": {"sources": {"format": "rooms"}}},
                "`data.sources` must be a list, each source behind a `-`",
            ),
            (
                {"model": {"base": "tiny", "config": ["camera"]}},
                "`model.config` must be a section of options, got",
            ),
        ],
    )
    def test_a_section_of_the_wrong_shape_is_named_whatever_is_overridden(self, write, words, change, message):
        with pytest.raises(ValueError) as caught:
            load_recipe(write(yaml.safe_dump(yaml.safe_load(MINIMAL) | change)), words)
        assert message in str(caught.value)
        assert "recipe.yaml" in str(caught.value)

    def test_a_file_that_holds_no_mapping_is_refused(self, write):
        with pytest.raises(ValueError, match="a recipe is a mapping of sections, got list"):
            load_recipe(write("- output\n"))


class TestOverrides:
    def load(self, write, *words):
        return load_recipe(write(MINIMAL), words)

    def test_values_take_the_type_of_the_option(self, write):
        recipe = self.load(
            write,
            *("--training.learning_rate", "1e-3", "--training.max-steps=7", "--training.report_to", "none"),
            *("--training.bf16", "false", "--output", "2024", "--model.config.objectives", "camera,depth"),
            *("--data.sources.0.question_types", "[object_counting]", "--data.num_frames", "null"),
        )
        assert recipe.training == {"learning_rate": 1e-3, "max_steps": 7, "report_to": "none", "bf16": False}
        assert recipe.output == "2024"
        assert recipe.model.config == {"objectives": ["camera", "depth"]}
        assert recipe.data.sources[0].question_types == ["object_counting"]
        assert recipe.data.num_frames is None

    def test_a_section_may_be_left_out_where_that_is_unambiguous(self, write):
        recipe = self.load(write, "--max_steps", "3", "--num_rooms", "9", "--objectives", "[camera]")
        assert recipe.training["max_steps"] == 3
        assert recipe.data.sources[0].num_rooms == 9

    def test_a_section_that_the_file_lacks_is_made(self, write):
        assert self.load(write, "--model.base", "a/b", "--lora.r", "8").lora == {"r": 8}
        assert self.load(write, "--teacher.name", "a/b").teacher.name == "a/b"

    def test_a_section_is_left_out_by_null(self, write):
        sections = "teacher: {name: a/b, metric: m}\nlora: {r: 4}\nprocessor: {max_clip_pixels: 9}\n"
        path = write(MINIMAL.replace("tiny", "a/b") + sections)
        left = load_recipe(path, ["--teacher", "null", "--lora", "~", "--processor", "null"])
        assert left == load_recipe(write(MINIMAL.replace("tiny", "a/b")))
        other = load_recipe(
            write(MINIMAL.replace("tiny", "a/b") + sections), ["--teacher.name", "c", "--teacher", "null"]
        )
        assert (other.teacher.name, other.teacher.metric, other.lora) == ("c", None, {"r": 4})

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--teacher", "a/b"], "`--teacher` is a section of options, got 'a/b'. Did you mean `teacher.name`?"),
            (["--lora", "true"], "`--lora` is a section of options, got 'true'. Did you mean `lora.r`?"),
            (["--model", "null"], "`model` is missing"),
            (["--model.config.teacher", "a/b"], "`model.config.teacher` tells who taught a model"),
            (["--model.config", "{}", "--model.config.objectives", "[]"], "Leave one of them out"),
            (["--max_stepz", "3"], "Unknown option `max_stepz`. Did you mean"),
            (["--training.max_rooms", "3"], "Unknown option `training.max_rooms`"),
            (["--seed", "3"], "could be any of"),
            (["--max_steps", "many"], "`training.max_steps` must be a whole number, got 'many'"),
            (["--max_steps"], "`--max_steps` needs a value"),
            (["--max_steps", "--bf16", "true"], "`--max_steps` needs a value"),
            (["--max_steps", "3", "--max-steps", "4"], "given twice"),
            (["stray"], "Unexpected argument 'stray'"),
            (["--data.sources.1.num_rooms", "3"], "Unknown option `data.sources.1.num_rooms`"),
        ],
    )
    def test_what_is_wrong_is_named(self, write, words, message):
        with pytest.raises(ValueError) as caught:
            self.load(write, *words)
        assert message in str(caught.value)

    def test_negative_numbers_are_values(self):
        assert parse_overrides(["--training.seed", "-1"]) == {"training.seed": "-1"}
