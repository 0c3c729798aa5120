"""NeoSeg: liver and tumour from one MRI volume (networks, training, sliding-window inference)."""
