"""Forward and backward passes of the model, in several forms of one function."""
