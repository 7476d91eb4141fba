// In place of the CUDA toolkit's: the types and conversions; arithmetic is g++'s.
#pragma once

typedef _Float16 __half;
typedef __half half;
inline float __half2float(__half v) { return static_cast<float>(v); }
inline __half __float2half(float v) { return static_cast<__half>(v); }
inline __half __float2half_rn(float v) { return __float2half(v); }
