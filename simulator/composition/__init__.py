"""From operators to a step: streams, blocks, stages, pipeline; then memory, energy and utilisation."""
