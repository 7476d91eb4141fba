"""What the ``on_numba.py`` files share, a line a file.

The machine:

- ``machine``: which CPU it is, its caches, how much of it this process may use;
- ``thread_count``: how many threads, ``CONVOLT_NUM_THREADS`` and ``set_num_threads``;
- ``memory``: where results lie: aligned, and used again.

Compiling and running loops:

- ``jit``: the decorators of jitted functions; ``parallel_jit`` shares a loop among threads;
- ``pool``: these threads, asleep until a loop has parts to give away;
- ``ufuncs``: NumPy's ufuncs in threads, for what NumPy does best;
- ``cache``: compiled code on disk;
- ``flat``: arrays of any strides as flat memory.

Vector instructions, for what LLVM does not find in a loop by itself:

- ``lanes``: vectors in LLVM's language, from which the next ones are made;
- ``vector``: what Numba has no words for: addresses, tiles called by address;
- ``streaming``: stores past the caches;
- ``exponential``: exp and log inside a loop, without a library;
- ``fold``: sums and extrema of rows;
- ``softmax``: rows of exponentials, their sums and gradients;
- ``pixels``: gathering whole vectors of channels, for pooling;
- ``philox``: random words, and dropout, which uses them where they arise.

Convolution and matrix products, from the outside in:

- ``correlate``: the loops of fprop and dgrad over tiles, which ``conv2d.plan`` lays out;
- ``accumulate``: those of wgrad, which ``conv2d.plan_wgrad`` lays out;
- ``tables``: what these loops read, and the words for how the work is cut;
- ``tiles``: the innermost loops, register tiles, as LLVM IR;
- ``assemble``: from that IR to machine code.
"""
