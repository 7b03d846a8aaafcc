"""The mechanics of recipes: strict YAML, `--key value` overrides, and type checks that name what is wrong.

Options come from many hands (a file, a command line, dataclasses of transformers and PEFT), so every check goes
through [`coerce`], which knows the annotation of an option and the dotted name to report it by.
"""

import dataclasses
import difflib
import enum
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml


class RawText(str):
    """An override as typed on the command line; [`coerce`] reads it as YAML unless the option wants text."""


class _StrictLoader(yaml.SafeLoader):
    """YAML that reads `2e-5` as a number and `no` as text, as everyone means them, and refuses a key given twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"the option `{key}` is given twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep=deep)


# YAML 1.1, which PyYAML follows, reads `2e-5` as text and `no` as false; `save_strategy: no` means the text.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.I), list("tTfF"))
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ValueError: if the file is not YAML, holds a key twice or holds something else than a mapping.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: a recipe is a mapping of sections, got {type(tree).__name__}.")
    return tree


def unknown_option(name: str, known: Iterable[str], where: str = "") -> ValueError:
    """The error for an option that does not exist: names it and the closest one that does."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if not close:  # an option may be known and its section be wrong: `learning_rat` for `training.learning_rate`
        leaves = {key.rpartition(".")[2]: key for key in known}
        close = [leaves[leaf] for leaf in difflib.get_close_matches(name.rpartition(".")[2], leaves, n=1)]
    place = f" in `{where}`" if where else ""
    hints = [f" Did you mean `{close[0]}`?"] if close else [f" Known are: {', '.join(known)}."] * (len(known) < 20)
    return ValueError(f"Unknown option `{name}`{place}.{''.join(hints)}")


def parse_overrides(arguments: Sequence[str]) -> dict[str, RawText]:
    """Turn `["--training.max-steps", "5", "--output=run"]` into `{"training.max_steps": "5", "output": "run"}`.

    Raises:
        ValueError: if a value has no option, an option has no value, or an option is given twice.
    """
    overrides: dict[str, RawText] = {}
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("--"):
            raise ValueError(f"Unexpected argument {argument!r}. Overrides are written `--section.key value`.")
        key, equals, value = argument[2:].partition("=")
        if not equals:
            if not remaining or remaining[0].startswith("--"):
                raise ValueError(f"The option `--{key}` needs a value.")
            value = remaining.pop(0)
        key = key.replace("-", "_")
        if key in overrides:
            raise ValueError(f"The option `--{key}` is given twice.")
        overrides[key] = RawText(value)
    return overrides


def is_null(text: RawText) -> bool:
    """Whether an override says `null`."""
    try:
        return yaml.load(text, Loader=_StrictLoader) is None
    except (yaml.YAMLError, ValueError):
        return False


def full_key(key: str, known: Iterable[str]) -> str:
    """Complete a key that leaves its section out: `max_steps` is `training.max_steps` if no other section has one.

    Raises:
        ValueError: if no known key, or more than one, ends so.
    """
    known = list(known)
    if key in known:
        return key
    matches = [candidate for candidate in known if candidate.endswith(f".{key}")]
    if len(matches) > 1:
        raise ValueError(f"The option `--{key}` could be any of {', '.join(matches)}. Write it in full.")
    if not matches:
        raise unknown_option(key, known)
    return matches[0]


def set_key(tree: Any, key: str, value: Any) -> None:
    """Set a dotted key in nested mappings and lists in place; sections that are missing are made.

    Raises:
        ValueError: if another override gives the section as a whole.
    """
    *parents, last = key.split(".")
    for parent in parents:
        if isinstance(tree, list):
            tree = tree[int(parent)]
        else:
            section = tree.get(parent)
            if section is None or isinstance(section, RawText) and is_null(section):
                tree[parent] = {}
            elif isinstance(section, RawText):
                raise ValueError(
                    f"`--{key}` and all of its section, {str(section)!r}, are given. Leave one of them out."
                )
            tree = tree[parent]
    tree[last] = value


def option_types(source: type) -> dict[str, Any]:
    """Names and annotations of the options that a dataclass takes."""
    # transformers writes torch's types as text in modules that import torch only for type checkers.
    hints = typing.get_type_hints(source, localns={"torch": torch})
    return {field.name: hints[field.name] for field in dataclasses.fields(source) if field.init}


def check_options(options: Any, known: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check a section: every name must be known, every value must fit its annotation.

    Args:
        options (`Any`): the section as read; `None`, an empty section in YAML, is an empty mapping.
        known (`Mapping[str, Any]`): annotations by option name.
        where (`str`): dotted name of the section, for errors.

    Returns:
        `dict[str, Any]`: the options, with overrides and numbers converted to their types.
    """
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise ValueError(f"`{where}` must be a section of options, got {options!r}.")
    for name in options:
        if name not in known:
            raise unknown_option(str(name), known, where)
    return {name: coerce(value, known[name], f"{where}.{name}" if where else name) for name, value in options.items()}


def build(section: type, options: Any, where: str) -> Any:
    """Make a dataclass of a section's options; options without a default must be there."""
    checked = check_options(options, option_types(section), where)
    for field in dataclasses.fields(section):
        has_default = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if not has_default and field.name not in checked:
            raise ValueError(
                f"`{where}.{field.name}` is missing. Set it in the recipe or with `--{field.name} VALUE`."
            )
    return section(**checked)


def coerce(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the type an annotation asks for, without ever guessing.

    The only conversions are the lossless ones: an integer where a float is asked for, text from the command line to
    what YAML reads in it, and `a,b` from the command line to a list.

    Raises:
        ValueError: naming the option, the type and the value.
    """
    if isinstance(value, RawText):
        return _coerce_text(value, hint, where)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if not _fits(value, hint):
        raise ValueError(f"`{where}` must be {_describe(hint)}, got {value!r}.")
    if hint is float:
        return float(value)
    return tuple(value) if typing.get_origin(hint) is tuple else value


def _coerce_text(text: RawText, hint: Any, where: str) -> Any:
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError):
        value = str(text)
    if isinstance(value, str) and not _fits(value, hint) and _wants_list(hint):
        value = [yaml.load(part, Loader=_StrictLoader) for part in text.split(",")]
    if not _fits(value, hint) and _fits(str(text), hint):
        value = str(text)
    return coerce(value, hint, where)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _wants_list(hint: Any) -> bool:
    return any((typing.get_origin(part) or part) in (list, tuple) for part in _alternatives(hint))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from YAML fits an annotation. Annotations that YAML cannot express accept anything."""
    if len(alternatives := _alternatives(hint)) > 1:
        return any(_fits(value, part) for part in alternatives)
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin in (None, types.NoneType):
        return value is None
    if origin in (bool, str):
        return isinstance(value, origin)
    if origin in (int, float):
        return isinstance(value, (int, origin)) and not isinstance(value, bool)
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(_fits(item, part) for item, part in _items(value, arguments))
    if origin is dict:
        return isinstance(value, dict)
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return value in [member.value for member in origin]
    return True


def _items(values: Sequence[Any], arguments: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """Pair the items of a sequence with their annotations: `list[int]`, `tuple[int, ...]`, `tuple[int, int]`."""
    if not arguments:
        return []
    if len(arguments) == 1 or arguments[-1] is Ellipsis:
        return [(value, arguments[0]) for value in values]
    if len(values) != len(arguments):
        return [(None, typing.Literal["a sequence of another length"])]
    return list(zip(values, arguments, strict=True))


def _describe(hint: Any) -> str:
    """An annotation in words: `a number`, `a whole number or null`, `one of 'a', 'b'`."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    if len(alternatives := _alternatives(hint)) > 1:
        return " or ".join(dict.fromkeys(_describe(part) for part in alternatives))
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(repr(member.value) for member in hint)
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (list, tuple):
        inner = [_describe(part) for part in dict.fromkeys(arguments) if part not in (Ellipsis, Any)]
        return f"a list of {' and '.join(inner)}" if inner else "a list"
    return words.get(hint, "a section of options" if origin is dict else str(hint))
