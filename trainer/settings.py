"""Typed settings from presets, YAML files and `a.b=c` words; omegaconf merges, this names mistakes.

Every mistake is a `UserError` of one line that gives the dotted path and, for an unknown key, the
nearest one that exists.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_shards.errors import UserError

T = TypeVar("T")


class Field(NamedTuple):
    """One setting: its dotted path, type as written, default and docstring."""

    path: str
    type: str
    default: Any
    doc: str


def fields_of(config: type, *, prefix: str = "") -> Iterator[Field]:
    """Every leaf setting of a (nested) dataclass, in the order it is written."""
    docs, hints = _field_docs(config), typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        path = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from fields_of(typing.cast(type, hints[field.name]), prefix=f"{path}.")
        else:
            yield Field(path, _spell(hints[field.name]), _default(field), docs.get(field.name, ""))


def compose(config: type[T], *layers: Mapping[str, Any], words: Sequence[str] = ()) -> T:
    """Build a config: its defaults, then each layer over the last, then `a.b=c` words.

    Raises:
        UserError: unknown key, value of the wrong type, value out of range, malformed word.
    """
    types_of = {field.path: field.type for field in fields_of(config)}
    merged: Any = OmegaConf.structured(config)
    for layer in (*layers, *(_word(word, types_of) for word in words)):
        flat = dict(_flatten(layer))
        for path, value in flat.items():
            _require_known(path, list(types_of))
            if types_of[path] == "str" and isinstance(value, bool):
                raise UserError(
                    f"{path}: YAML takes no, off, yes and on for truth values; quote it"
                )
        try:
            merged = OmegaConf.merge(merged, OmegaConf.create(_nest(flat)))
        except OmegaConfBaseException as error:
            raise UserError(_explain(error, flat, types_of)) from None
    return _build(config, typing.cast(dict, OmegaConf.to_container(merged)))


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict of a config, tuples as lists, for YAML and JSON."""
    return {
        field.name: to_dict(value)
        if dataclasses.is_dataclass(value)
        else (list(value) if isinstance(value, tuple) else value)
        for field in dataclasses.fields(config)
        for value in [getattr(config, field.name)]
    }


def to_yaml(config: Any) -> str:
    """YAML of every setting; `load_yaml` and `compose` give the same config back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def without_aliases(text: str) -> str:
    """A YAML text, refused (`yaml.YAMLError`) where it has aliases: a few lines of copies of copies
    fill any memory, and no settings need them."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: an alias (*{event.anchor}), which is not read here")
    return text


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader.

    Raises:
        UserError: unreadable, not YAML, or not a mapping; tags that would build objects included.
    """
    try:
        loaded = OmegaConf.create(without_aliases(Path(path).read_text()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a YAML file of settings ({reason})") from None
    if not OmegaConf.is_dict(loaded):
        raise UserError(f"{path}: expected a mapping of settings such as 'train: {{minutes: 10}}'")
    return typing.cast(dict, OmegaConf.to_container(loaded))


def _word(word: str, types_of: Mapping[str, str]) -> dict[str, Any]:
    path, equals, text = word.partition("=")
    if not equals or not path or path.startswith("-"):
        raise UserError(f"{word!r}: expected setting=value, such as train.minutes=10")
    if types_of.get(path) == "str":  # as it stands: YAML takes `no` for a truth value
        return _nest({path: text})
    try:
        return typing.cast(dict, OmegaConf.to_container(OmegaConf.from_dotlist([word])))
    except (yaml.YAMLError, OmegaConfBaseException):
        raise UserError(f"{path}: {text!r} is not a value") from None


def _flatten(layer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in layer.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[leaf] = value
    return nested


def _require_known(path: str, known: list[str]) -> None:
    if path in known:
        return
    inside = [name for name in known if name.startswith(f"{path}.")]
    if inside:
        raise UserError(
            f"{path}: is a group of settings; set one of its fields, e.g. {inside[0]}=..."
        )
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.4)
    leaf = [name for name in known if name.rpartition(".")[2] == path.rpartition(".")[2]]
    hint = (leaf or near or [""])[0]
    raise UserError(f"{path}: no such setting" + (f"; did you mean {hint}?" if hint else ""))


def _explain(
    error: OmegaConfBaseException, flat: Mapping[str, Any], types_of: Mapping[str, str]
) -> str:
    key = str(getattr(error, "full_key", None) or next(iter(flat)))
    path = next((path for path in flat if key == path or key.startswith(f"{path}[")), key)
    return f"{path}: {flat.get(path)!r} is not of type {types_of.get(path, 'of this setting')}"


def _build(config: Any, values: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(config)
    return config(
        **{
            name: _build(hints[name], value)
            if dataclasses.is_dataclass(hints[name])
            else (tuple(value) if isinstance(value, list) else value)
            for name, value in values.items()
        }
    )


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "required"


def _spell(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " | ".join(map(_spell, typing.get_args(hint)))
    if hint is type(None):
        return "null"
    return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)


def _field_docs(config: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    docs: dict[str, str] = {}
    last = None
    for node in typing.cast(ast.ClassDef, tree).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = node.target.id
        elif last and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docs[last] = " ".join(str(node.value.value).split())
            last = None
        else:
            last = None
    return docs
