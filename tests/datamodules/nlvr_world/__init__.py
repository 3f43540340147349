"""Tests of the drawings in NLVR's style."""
