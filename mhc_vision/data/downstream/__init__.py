"""The datasets that pretrained models are fine-tuned on."""
