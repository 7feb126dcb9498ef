"""The multiplexer: watch many sandboxes, type into each, snapshot and fork them while they run."""
