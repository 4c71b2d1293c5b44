"""What a user did, as distinct from defects of the program."""


class InputError(ValueError):
    """Wrong input: a file, an argument, a value of a config.

    The message names it, what was expected, what was found and what to do; `launch` prints it without a traceback. Any other
    ValueError, such as that of JAX for arrays that do not fit, is a defect and keeps its traceback.
    """
