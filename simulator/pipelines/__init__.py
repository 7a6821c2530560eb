"""Micro-batches through stages: schedules in closed form, their orders of passes, and the replay that checks them."""
