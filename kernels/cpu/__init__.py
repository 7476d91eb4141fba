"""What the ``on_numba.py`` files share: compiling, threads, memory, vector instructions.

- the machine: ``machine`` (CPU, caches), ``thread_count``, ``memory`` (reused, aligned results);
- compiling and running: ``jit``, ``cache`` (compiled code on disk), ``pool`` (the threads),
  ``ufuncs`` (NumPy's, in threads), ``flat`` (any strides as flat memory);
- matrix arithmetic: ``tiles`` (the innermost loops, as LLVM IR), ``assemble`` (from IR to machine
  code), ``vector`` (tiles and addresses in jitted code), ``correlate`` and ``accumulate`` (the
  loops over tiles; ``conv2d.plan`` lays them out);
- other loops in vector registers: ``exponential``, ``fold`` (sums and extrema), ``pixels``;
- ``lanes``: vectors in LLVM's language, for ``tiles``, ``fold`` and ``pixels``.
"""
