"""Words of touch and look, and how visual each is."""
