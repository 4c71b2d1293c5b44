"""The exceptions for wrong input, as distinct from bugs of the program."""


class InputError(ValueError):
    """Wrong input: a file, an argument, a value of a config.

    The message names it, what was expected, what was found and what to do; `launch` prints it without a traceback. Any other
    ValueError, such as one that JAX raises for arrays of wrong shapes, is a bug and keeps its traceback.
    """


class PredictionError(InputError):
    """A network that gives no prediction for one input: evaluation scores it as a failure and goes on with the others."""
