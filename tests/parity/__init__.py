"""How far networks are from the official PyTorch implementation: its outputs on random weights (tests/golden/README.md)."""
