"""`train.py --check`: everything that a run will need is looked at, without training it."""
