"""Properties: regions of inputs and unsafe sets of outputs."""
