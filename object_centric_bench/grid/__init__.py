"""Many runs: train and score what is missing, tables over seeds, paired comparison. Imports no PyTorch."""
