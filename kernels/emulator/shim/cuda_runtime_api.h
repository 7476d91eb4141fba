// In place of the CUDA toolkit's: cuda_shim.h has it all.
