"""All rules, registered in the order in which a row's first mistake is looked for; importing this module does it."""

# ruff: noqa: I001, F401  the order is that of the messages: what others follow from comes first

from simulator.legality import devices
from simulator.legality import tensor_parallel
from simulator.legality import latent_attention
from simulator.legality import batches
from simulator.legality import training_options
from simulator.legality import types_and_tasks
from simulator.legality import context
from simulator.legality import experts
from simulator.legality import offload
from simulator.legality import pipelines
from simulator.legality import recomputing
from simulator.legality import stage_layers

__all__: list[str] = []
