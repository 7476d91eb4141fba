"""What the ``on_numba.py`` files share: compiling, threads, memory, vector instructions."""
