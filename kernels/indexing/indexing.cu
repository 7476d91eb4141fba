// The gradient of gathering: sums over all places that picked the same cell.
#include "../cuda/common.cuh"

// indexing_backward_runs: grad_x[c] = sum over all i with cell(i) = c of grad_y[i]
//
// cells are the cell(i) in rising order, places their i, rising where cells are equal: so each
// cell's sum runs in the order of grad_y.
//
// Mapping   one thread for each place; the one at the head of a run of equal cells adds up the run
// Traffic   reads = (34 + STORAGE_BYTES) * count
//           writes = STORAGE_BYTES * count
//           where every cell is picked once, in order: three cells, two of them not aligned, and a
//           place for each; places in disorder cost a sector each
// Roofline  memory bound
// Limits    cells that no place picked are left alone; a cell picked very often is one thread's
//           work
// Source    the definition
extern "C" __global__ void __launch_bounds__(BLOCK)
    indexing_backward_runs(const Storage* __restrict__ grad_y, const long long* __restrict__ cells,
                           const long long* __restrict__ places, Storage* __restrict__ grad_x,
                           int count) {
  long long i = global_thread();
  if (i >= count) return;
  const long long cell = cells[i];
  if (i > 0 && cells[i - 1] == cell) return;
  Real sum = 0;
  do {
    sum += to_real(grad_y[places[i]]);
    ++i;
  } while (i < count && cells[i] == cell);
  grad_x[cell] = to_storage<Storage>(sum);
}
