"""The models, one file per family; `table` names them all without loading Paddle."""
