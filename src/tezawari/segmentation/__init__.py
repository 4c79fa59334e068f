"""From image labels to masks: class-specific saliency, CRF, simple-to-complex self-training, metrics."""
