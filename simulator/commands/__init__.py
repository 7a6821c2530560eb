"""The commands of ``llmsim``, by theme; each reads what the user wrote, calls the engine and hands on the result."""
