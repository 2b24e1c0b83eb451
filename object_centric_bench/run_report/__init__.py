"""One HTML file about a run: scores, curves, pictures, config, environment. It needs no network."""
