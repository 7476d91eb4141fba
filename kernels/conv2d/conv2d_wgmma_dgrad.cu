// The gradient with respect to x by wgmma, one launch for each phase of the strides; phases.py says
// what a phase is, conv2d_wgmma.cuh has the index maps.
#include "conv2d_wgmma.cuh"

// grad_x[n,h,w,c] = sum over k and over the r,s with h = p*stride_h + r*dilation_h - pad_top and
//                   w = q*stride_w + s*dilation_w - pad_left of grad_y[n,p,q,k] * w[k,r,s,c]
//                   for the pixels h, w of a phase
//
// Mapping   a product of the phase's pixels x (r, s, k) with channels x (r, s, k). A block has
//           TILE_M x TILE_N of it at a time and goes on GRID tiles further.
// Traffic   reads = 2 * taps * depth * (gemm_m * tiles_n + gemm_n * tiles_m)
//           writes = 2 * gemm_m * gemm_n
//           less the taps that fall on the padding.
// Roofline  size.flops / size.bytes.
// Limits    sm_90a. One group; channels in multiples of 8; what TMA's im2col mode reaches. A phase
//           without taps is filled with zeros.
// Source    the derivative of conv2d_fprop; Dumoulin and Visin 2016, sections 4.1 to 4.6.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    conv2d_dgrad_wgmma(const __grid_constant__ TensorMap map_grad_y,
                       const __grid_constant__ TensorMap map_w,
                       const __grid_constant__ TensorMap map_grad_x, bfloat16* __restrict__ grad_x,
                       const __grid_constant__ PixelProduct size) {
  EXTERN_SHARED(unsigned char, start);
  __shared__ Barriers barriers;
  unsigned char* const memory = align_shared<1024>(start);
  run<false, true>(
      PixelTiles<true>(size, &map_grad_y, &map_w, &map_grad_x, nullptr, grad_x, memory),
      Ring(memory, barriers));
}
