"""Tasks, one LightningModule each; an experiment file names its task by module."""
