"""The processors: model-specific registers, extended state, the instructions that submit work."""
