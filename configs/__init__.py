"""One file for each experiment that somebody would name out loud; `get_config(variant)` returns a locked ConfigDict."""
