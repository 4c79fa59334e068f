"""From a word to a clean set of images: sources, guarded download, store, re-ranking, export."""
