"""The fabric as a graph of devices, switches and links: played out, replayed and drawn. Feeds no estimate."""
