"""From a pretrained ViT to a downstream dataset: where a run starts, what it trains, and probes of frozen features."""
