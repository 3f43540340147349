"""Drawings in NLVR's style with statements of an own grammar, to pre-train on: ``python -m datamodules.nlvr_world``."""
