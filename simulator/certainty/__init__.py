"""How well numbers are known: evidence, doubt of each kernel, intervals of a step."""
