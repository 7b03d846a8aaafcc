"""The weights of a checkpoint folder, tensor by tensor: names and shapes without reading, shards kept when written."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers import PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME


_TIED_HEAD, _EMBEDDINGS = "lm_head.weight", "model.language_model.embed_tokens.weight"


class ShardedWeights(Mapping[str, torch.Tensor]):
    r"""Tensors of a checkpoint folder by name. Each is read from its file when it is asked for.

    Args:
        folder (`Path`): A folder with `model.safetensors`, or with shards `model-*.safetensors` and their index.

    Attributes:
        shapes (`dict[str, tuple[int, ...]]`): Shape of every tensor.
        shards (`dict[str, str]`): File of every tensor.

    Raises:
        ValueError: The folder has no safetensors, lacks a shard, or one is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.shards: dict[str, str] = {}
        self._files = {}
        for shard in _shard_names(folder):
            try:
                file = safe_open(folder / shard, framework="pt")
            except FileNotFoundError as error:
                raise ValueError(f"{folder} lacks {shard}, which its index names. Fetch it again.") from error
            except SafetensorError as error:
                raise ValueError(f"{folder / shard} is damaged: {error}. Fetch it again.") from error
            self._files[shard] = file
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if name in self.shards:
                    raise ValueError(f"{folder} has {name} twice, in {self.shards[name]} and in {shard}.")
                self.shards[name] = shard
                self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._files[self.shards[name]].get_tensor(name)

    def __iter__(self):
        return iter(self.shards)

    def __len__(self) -> int:
        return len(self.shards)


def _shard_names(folder: Path) -> list[str]:
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [SAFE_WEIGHTS_NAME]
    if shards := sorted(path.name for path in folder.glob("model-*.safetensors")):
        return shards
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    reason = f"only {pickles[0]}, and pickled weights are not opened: save them as safetensors" if pickles else "none"
    raise ValueError(f"{folder} must hold its weights as {SAFE_WEIGHTS_NAME}, alone or in shards; it has {reason}.")


def write_shards(
    folder: Path, tensors: Mapping[str, Callable[[], torch.Tensor]], shards: Mapping[str, str], progress: bool = False
) -> None:
    """Write tensors to a folder, grouped into files as they were before, one file at a time.

    Args:
        folder (`Path`): The folder.
        tensors (`Mapping[str, Callable[[], torch.Tensor]]`): By name, what gives the tensor. Each is called once.
        shards (`Mapping[str, str]`): By name, the file that the tensor, or what it is made of, was in.
        progress (`bool`, *optional*, defaults to `False`): Show a bar that counts tensors.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(tensors):
        groups.setdefault(shards[name], []).append(name)
    count = len(groups)
    weight_map, total_size, total_parameters = {}, 0, 0
    with tqdm(total=len(tensors), desc="Writing tensors", disable=not progress) as bar:
        for number, (_, names) in enumerate(sorted(groups.items()), start=1):
            file = SAFE_WEIGHTS_NAME if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
            shard = {}
            for name in names:
                shard[name] = tensors[name]().contiguous()
                weight_map[name] = file
                total_size += shard[name].nbytes
                total_parameters += shard[name].numel()
                bar.update()
            save_file(shard, folder / file, metadata={"format": "pt"})
    if count > 1:
        index = {
            "metadata": {"total_parameters": total_parameters, "total_size": total_size},
            "weight_map": dict(sorted(weight_map.items())),
        }
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def drop_tied_head(names: list[str], weights: ShardedWeights, config: PreTrainedConfig, source: object) -> None:
    """Take the output layer out of a list of names if it is the embeddings, saved twice.

    Args:
        names (`list[str]`): Names of tensors, changed in place.
        weights ([`ShardedWeights`]): The tensors.
        config ([`~transformers.PreTrainedConfig`]): Tells whether the two are tied.
        source (`object`): What the error calls the checkpoint.

    Raises:
        ValueError: They should be one, and are not.
    """
    if config.tie_word_embeddings and _TIED_HEAD in names and _EMBEDDINGS in names:
        if not torch.equal(weights[_TIED_HEAD], weights[_EMBEDDINGS]):
            raise ValueError(
                f"{source} says `tie_word_embeddings`, but its {_TIED_HEAD} is not its {_EMBEDDINGS}. Correct the "
                "configuration."
            )
        names.remove(_TIED_HEAD)


def check_fit(model: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]], source: object, cure: str) -> None:
    """Hold tensors against the model that shall load them: the same names, the same shapes.

    Args:
        model (`nn.Module`): The model; on the meta device will do. Tied weights count once.
        shapes (`Mapping[str, tuple[int, ...]]`): Shapes by name.
        source (`object`): What the error calls the tensors' origin.
        cure (`str`): What the error advises.

    Raises:
        ValueError: They do not fit; lists what is missing, unknown and misshapen.
    """
    tied = set(model.all_tied_weights_keys)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
    problems = {
        "missing": [name for name in wanted if name not in shapes],
        "unknown": [name for name in shapes if name not in wanted],
        "of another shape": [
            f"{name}: {shapes[name]}, not {shape}"
            for name, shape in wanted.items()
            if name in shapes and shapes[name] != shape
        ],
    }
    if any(problems.values()):
        lines = [f"  {len(names)} {what}: {_listed(names)}" for what, names in problems.items() if names]
        raise ValueError(f"{source} does not fit {type(model).__name__}:\n" + "\n".join(lines) + f"\n{cure}")


def _listed(names: list[str], limit: int = 20) -> str:
    return ", ".join(names[:limit]) + (f", and {len(names) - limit} more" if len(names) > limit else "")
