"""Published weights into our networks, strictly."""

from pathlib import Path

import torch
from transformers import PreTrainedConfig
from transformers.initialization import no_init_weights

from .base import PublishedNames, TeacherNetwork
from .weight_files import WeightFile


def load_published(
    network_class: type[TeacherNetwork],
    config: PreTrainedConfig,
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attn_implementation: str | None = None,
) -> TeacherNetwork:
    r"""Load a published file as it is.

    Args:
        network_class (`type[TeacherNetwork]`):
            The network.
        config (`PreTrainedConfig`):
            Its sizes.
        path (`Path`):
            The file, see [`WeightFile`].
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Dtype of matrices and convolutions; what stays in float32 all the same, [`TeacherNetwork`] says.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Where the network goes, tensor by tensor.
        attn_implementation (`str`, *optional*):
            Attention implementation of transformers; by default SDPA.

    Returns:
        `TeacherNetwork`: The network, frozen, in evaluation mode.

    Raises:
        ValueError: The file lacks a tensor that the network needs, has one of another shape, or one that nobody knows.
    """
    network = empty_network(network_class, config)
    if attn_implementation is not None:
        network.set_attn_implementation(attn_implementation)
    file = WeightFile(path)
    sources = published_sources(network)
    check_tensors(network, sources, file)
    state = {}
    for name, (published, part) in sources.items():
        tensor = file[published] if part is None else file[published].chunk(3)[part]
        target = torch.float32 if network.keeps_float32(name) else dtype
        state[name] = tensor.to(device, target, copy=True)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def empty_network(network_class: type[TeacherNetwork], config: PreTrainedConfig) -> TeacherNetwork:
    """A network on the meta device: names and shapes, no memory."""
    with torch.device("meta"), no_init_weights():
        return network_class(config)


def published_sources(network: TeacherNetwork) -> dict[str, tuple[str, int | None]]:
    """Where every tensor of a network comes from.

    Args:
        network (`TeacherNetwork`): The network; the meta device will do.

    Returns:
        `dict[str, tuple[str, int | None]]`: By our name, the published name, and which third of the rows it is, if not
        all of them.
    """
    names = network.published_names(network.config)
    return {name: _published(name, names) for name in network.state_dict()}


def _published(name: str, names: PublishedNames) -> tuple[str, int | None]:
    # The longest prefix that is one of ours: what follows is the same in both.
    components = name.split(".")
    for length in range(len(components), 0, -1):
        prefix = ".".join(components[:length])
        if prefix in names:
            published, part = names[prefix] if isinstance(names[prefix], tuple) else (names[prefix], None)
            return published + name.removeprefix(prefix), part
    raise KeyError(name)


def check_tensors(network: TeacherNetwork, sources: dict[str, tuple[str, int | None]], file: WeightFile) -> None:
    """Hold a file against a network.

    Args:
        network (`TeacherNetwork`): The network.
        sources (`dict[str, tuple[str, int | None]]`): See [`published_sources`].
        file ([`WeightFile`]): The file.

    Raises:
        ValueError: They do not fit; lists what is missing, misshapen and unknown.
    """
    missing, misshapen = [], []
    for name, tensor in network.state_dict().items():
        published, part = sources[name]
        found = file.shapes.get(published)
        rows = () if not tensor.ndim else (tensor.shape[0] * (1 if part is None else 3),)
        wanted = (*rows, *tensor.shape[1:])
        if found is None:
            missing.append(published)
        elif found != wanted:
            misshapen.append(f"{published}: {found}, not {wanted}")
    used = {published for published, _ in sources.values()}
    unknown = [name for name in file.shapes if name not in used and not name.startswith(network.unneeded)]
    problems = {"missing": dict.fromkeys(missing), "of another shape": dict.fromkeys(misshapen), "unknown": unknown}
    if any(problems.values()):
        lines = [f"  {len(names)} {what}: {_listed(list(names))}" for what, names in problems.items() if names]
        raise ValueError(
            f"{file.path} does not hold the weights of this {type(network).__name__}:\n" + "\n".join(lines) + "\n"
            "Nothing was loaded. Is it the right file, and is the configuration that of its size?"
        )


def _listed(names: list[str], limit: int = 20) -> str:
    return ", ".join(names[:limit]) + (f", and {len(names) - limit} more" if len(names) > limit else "")


def cast_matrices(network: TeacherNetwork, dtype: torch.dtype) -> TeacherNetwork:
    """Round matrices and convolutions of a float32 network to `dtype`, in place, as loading in `dtype` does.

    Args:
        network (`TeacherNetwork`): The network.
        dtype (`torch.dtype`): Dtype of its matrices.

    Returns:
        `TeacherNetwork`: `network`.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not network.keeps_float32(name):
            tensor.data = tensor.data.to(dtype)
    return network
