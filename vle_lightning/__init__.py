"""Vision-language pre-training and fine-tuning on PyTorch Lightning."""
