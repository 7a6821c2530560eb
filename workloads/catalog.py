"""Models by name, by file or by mapping.

The catalog is the folder ``models`` beside this module: one YAML file per model, named as the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hardware_specs.errors import Problem, SpecError, near_names, shorten
from hardware_specs.strict_yaml import load_yaml
from workloads.huggingface import is_huggingface, known_families, spec_from_config
from workloads.json_file import load_json
from workloads.model_spec import ModelSpec
from workloads.parameter_counts import parameters

__all__ = ["lint_model", "list_models", "load_model", "model_hash"]

_FOLDER = Path(__file__).parent / "models"
_YAML = (".yaml", ".yml")


def list_models() -> list[str]:
    """Names in the catalog, sorted. Raises nothing."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_model(source: str | Path | Mapping[str, Any] | ModelSpec) -> ModelSpec:
    """Find or read a model.

    Parameters
    ----------
    source : str, Path, mapping or ModelSpec
        A catalog name; or the path of a model YAML file, of a Hugging Face config.json, or of a folder that
        holds a config.json; or a mapping with the keys of a config.json (it has ``model_type`` or
        ``architectures``) or of `ModelSpec`. A mapping in our keys may have ``base``, a catalog name whose
        keys it changes. A `ModelSpec` is returned as it is.

    Returns
    -------
    ModelSpec
        The model.

    Raises
    ------
    SpecError
        If the name is unknown (near names are offered), the file cannot be read, or the description is wrong.

    Examples
    --------
    >>> load_model("llama-3.1-8b").kv_heads
    8
    """
    if isinstance(source, ModelSpec):
        return source
    if isinstance(source, Mapping):
        return _from_mapping(source, "model.")
    if not isinstance(source, (str, Path)):
        rule = "must be a catalog name, a path or a mapping"
        raise SpecError([Problem(path="model", value=shorten(source), rule=rule)])
    if isinstance(source, str):
        if source in list_models():
            return _from_catalog(source)
        if not _is_path(source):
            raise _unknown_name(source)
    return _from_path(Path(source))


def model_hash(name: str) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a catalog file.

    Raises
    ------
    SpecError
        If the catalog has no such name.
    """
    if name not in list_models():
        raise _unknown_name(name)
    import hashlib  # only resolved scenarios need it

    return hashlib.sha256((_FOLDER / f"{name}.yaml").read_bytes()).hexdigest()[:12]


def lint_model(path: str | Path) -> list[Problem]:
    """Check a model file, and that its shapes give the count that it states.

    Parameters
    ----------
    path : str or Path
        A model YAML file or a config.json.

    Returns
    -------
    list of Problem
        Empty if nothing is wrong.

    Raises
    ------
    SpecError
        Never: a file that cannot be read is one of the problems.
    """
    try:
        spec = _from_path(Path(path))
    except SpecError as error:
        return list(error.problems)
    stated, counted = spec.published_parameters, parameters(spec)["total"]
    if stated is None or stated == counted:
        return []
    rule = f"differs from the {counted} parameters that the shapes give"
    fix = "correct the shapes, or leave it null if only a rounded count is published"
    return [Problem(path=f"{path}: published_parameters", value=str(stated), rule=rule, fix=fix)]


@lru_cache(maxsize=64)
def _from_catalog(name: str) -> ModelSpec:
    path = _FOLDER / f"{name}.yaml"
    return ModelSpec.model_validate(load_yaml(path), context={"prefix": f"{name}: "})


def _from_path(path: Path) -> ModelSpec:
    name = shorten(str(path))
    prefix = f"{name}: "
    if _is_dir(path):
        if not _exists(path / "config.json"):
            rule = "is a folder without a config.json"
            raise SpecError([Problem(path=name, value="", rule=rule, fix="give the path of a model file")])
        path = path / "config.json"
    if path.suffix.lower() in _YAML:
        return _from_mapping(load_yaml(path), prefix)
    if path.suffix.lower() != ".json" and _exists(path):
        rule = "is neither a .json nor a .yaml file"
        raise SpecError([Problem(path=name, value="", rule=rule, fix="rename it, or give a config.json")])
    config = load_json(path)
    title = path.resolve().parent.name if path.name == "config.json" else path.stem
    return spec_from_config(config, name=title, prefix=prefix)


def _from_mapping(mapping: Mapping[str, Any], prefix: str) -> ModelSpec:
    if not all(isinstance(key, str) for key in mapping):
        wrong = [prefix + shorten(key) for key in mapping if not isinstance(key, str)]
        raise SpecError([Problem(path=path, value="", rule="a key must be text") for path in wrong])
    if is_huggingface(mapping):
        return spec_from_config(mapping, prefix=prefix)
    if "base" in mapping:
        mapping = _with_base(mapping, prefix)
    return ModelSpec.model_validate(mapping, context={"prefix": prefix})


def _with_base(mapping: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Lay the given keys over those that the file of the base states, so that derived ones follow."""
    base = mapping["base"]
    if base not in list_models():
        raise _unknown_name(base, prefix + "base")
    changes = {key: value for key, value in mapping.items() if key != "base"}
    merged = load_yaml(_FOLDER / f"{base}.yaml")
    if changes:
        # the makers' count and citation are not those of the changed model
        merged |= {"name": f"{base}-changed", "published_parameters": None, "note": ""}
        merged["source"] = f"catalog entry {base}, changed by the user: {', '.join(sorted(changes))}"
    return {**merged, **changes}


def _is_path(text: str) -> bool:
    if not text.strip():  # Path("") would be the current folder
        return False
    return "/" in text or os.sep in text or text.lower().endswith((".json", *_YAML)) or _exists(Path(text))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL character
        return False


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _unknown_name(name: object, path: str = "model") -> SpecError:
    known = list_models()
    near = near_names(name, known) if isinstance(name, str) else []
    fix = f"near: {', '.join(near)}" if near else f"known: {', '.join(known)}"
    fix += f"; or the path of a model YAML or of a config.json ({', '.join(known_families())})"
    return SpecError([Problem(path=path, value=shorten(name), rule="is not in the catalog", fix=fix)])
