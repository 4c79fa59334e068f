"""Images in and out of files, and the LightningDataModules that feed training."""
