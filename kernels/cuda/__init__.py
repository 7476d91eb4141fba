"""What the CUDA kernels of all ops share: headers, the compiler, the launcher."""
