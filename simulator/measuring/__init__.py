"""Measuring PyTorch on the user's own machine: operators, collectives and whole runs, as tables that others read.

The one folder that imports torch. Nothing here predicts: ``llmsim calibrate`` fits what is written here, and
``llmsim validate`` scores it.
"""
