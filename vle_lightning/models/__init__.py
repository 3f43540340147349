"""Whole models built from towers and fusion, and the small parts that heads are made of."""
