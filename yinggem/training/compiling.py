"""compile=true needs a compiler of the system: asked before anything is built."""

from yinggem.common.errors import UserError


def check_compiler() -> None:
    """Refuse to compile where there is no C++ compiler, by torch's own search for one.

    Raises:
        UserError: there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes a second to load

    try:
        get_cpp_compiler()
    except Exception as error:  # torch has several kinds, some of the system's
        raise UserError(
            "compile=true needs a C++ compiler and torch finds none here; install one such as g++, name yours in the "
            "environment variable CXX, or leave out compile=true."
        ) from error
