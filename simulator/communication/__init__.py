"""How long collectives take: algorithms, tiers, placement of groups."""
