"""A web page on which trained models can be tried: ``python -m vle_lightning demo MODEL [MODEL ...]``."""
