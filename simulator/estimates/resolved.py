"""The scenario of a result with every default, versions and fingerprints of the catalog entries used."""

from __future__ import annotations

from typing import Any

from hardware_specs import catalog_hash, list_systems, to_mapping
from simulator.scenarios.scenario_reading import scenario_from
from simulator.spaces.partition import Partition
from simulator.spaces.space import Space
from workloads.catalog import list_models, model_hash


def resolved_scenario(space: Space, partition: Partition) -> dict[str, Any]:
    """Scenario of a single row, every default written out; it reads back as the same scenario.

    A named model or system stays a name, anything else is written in full. Overrides of figures follow as dotted
    keys. Raises nothing for a legal partition.
    """
    scenario = scenario_from({k: v for k, v in space.scenario_mapping(0).items() if k not in space.fixed})
    out = scenario.model_dump(mode="json")
    if not (isinstance(scenario.model, str) and scenario.model in list_models()):
        out["model"] = partition.models[0].model_dump(mode="json")
    if not (isinstance(scenario.system, str) and scenario.system in list_systems()):
        out["system"] = to_mapping(partition.systems[0])
    plan = partition.inputs.plan
    out["plan"]["data_parallel"] = int(plan.data_parallel[0])
    out["plan"]["micro_batch_size"] = int(plan.micro_batch_size[0])
    return {**out, **space.fixed}


def fingerprints(scenario: dict[str, Any]) -> dict[str, str]:
    """Short hashes of the catalog entries that a scenario names; entries written in full have none."""
    out: dict[str, str] = {}
    if isinstance(scenario["model"], str):
        out["model"] = model_hash(scenario["model"])
    if isinstance(scenario["system"], str):
        out["system"] = catalog_hash(scenario["system"])
    return out
