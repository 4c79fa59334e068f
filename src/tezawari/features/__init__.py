"""Pretrained backbones behind one interface of named layers, and the statistics taken from them."""
