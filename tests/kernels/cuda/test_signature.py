import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from convolt.kernels.cuda.signature import Argument, Source, SourceError, traffic

SOURCE = """// What the whole file shares.
#include "sizes.cuh"
#include <not/read.h>
#ifndef STORAGE
#define STORAGE float
#endif
typedef STORAGE Storage;
typedef MASK Mask;  // extern "C" __global__ void commented_out(int x)
using Count = unsigned long long;
/* extern "C" __global__ void also_commented_out(int x) {} */

// y = alpha * x.
//
// Mapping   one thread an element:
//           no other.
// Traffic   reads = STORAGE_BYTES * (n +
//                   ceil_div(c, 2)) - MASK_BYTES
//           writes = 8 * GRID * BLOCK
//           so that is little.
// Roofline  memory
// Limits    none
// Source    none
extern "C" __global__ void __launch_bounds__(BLOCK)
    scale_forward(const Storage* __restrict__ x, Storage *__restrict__ y, /* in bytes, */
                  Mask* const mask, ScaleSize size, Real alpha, const Count count) {}

// Without a name of a section.
__global__ __launch_bounds__((256), 2) void nothing() {}

__global__ void plain(const struct ScaleSize size, double const* x, unsigned n) { nothing(1, 2); }
"""
SIZES = """#define LENGTH 3
struct Pair { unsigned char tag; double value; };
struct ScaleSize {
  int n, c, k;  // sizes; { }
  Pair pair;
  long long stride[LENGTH], offset;
  bool flag;
};
struct WithFunction { int n; int twice() const { return 2 * n; } };
struct __align__(64) Wide { int n; };
"""


@pytest.fixture
def write(tmp_path):
    def write(text, **others):
        for name, other in others.items():
            (tmp_path / f"{name}.cuh").write_text(other)
        (tmp_path / "kernel.cu").write_text(text)
        return Source(tmp_path / "kernel.cu")

    return write


@pytest.fixture
def source(write):
    return write(SOURCE, sizes=SIZES)


def test_entry_points_are_those_outside_comments(source):
    assert list(source.entry_points) == ["scale_forward", "nothing", "plain"]
    point = source.entry_point("scale_forward")
    assert SOURCE.splitlines()[point.line - 1].startswith('extern "C" __global__')
    assert source.entry_point("nothing").declarations == ()
    assert len(source.entry_point("plain").declarations) == 3


def test_a_signature_has_the_types_that_the_constants_say(source):
    x, y, mask, size, alpha, count = source.signature(
        "scale_forward", {"STORAGE": "bfloat16", "MASK": "unsigned char"}
    ).parameters
    assert (x.name, x.pointer, x.const) == ("x", True, True)
    assert (y.name, y.pointer, y.const) == ("y", True, False)
    assert x.dtype == y.dtype == ml_dtypes.bfloat16
    assert (mask.name, mask.pointer, mask.const) == ("mask", True, False)
    assert mask.dtype == np.uint8
    assert (size.name, size.pointer) == ("size", False)
    assert (alpha.dtype, alpha.pointer) == (np.float32, False)
    assert (count.dtype, count.pointer, count.const) == (np.uint64, False, False)


@pytest.mark.parametrize(
    ("defines", "storage", "real"),
    [({}, "float32", "float32"), ({"STORAGE": "double"}, "float64", "float64")],
)
def test_storage_defaults_to_what_the_source_defines_and_real_follows_it(
    source, defines, storage, real
):
    parameters = source.signature("scale_forward", {"MASK": "int", **defines}).parameters
    assert parameters[0].dtype == storage
    assert parameters[4].dtype == real


def test_a_struct_has_the_layout_of_c(source):
    dtype = source.signature("plain", {}).parameters[0].dtype
    offsets = {name: field[1] for name, field in dtype.fields.items()}
    assert offsets == {"n": 0, "c": 4, "k": 8, "pair": 16, "stride": 32, "offset": 56, "flag": 64}
    assert dtype["pair"].fields["value"][1] == 8
    assert dtype["stride"].shape == (3,)
    assert dtype.itemsize == 72


def test_a_struct_may_ask_for_its_alignment(write):
    source = write('#include "sizes.cuh"\n__global__ void f(Wide wide) {}', sizes=SIZES)
    dtype = source.signature("f", {}).parameters[0].dtype
    assert dtype.names == ("n",)
    assert dtype.itemsize == 64


def test_the_layouts_are_those_of_a_c_compiler(source, tmp_path):
    """The offsets that g++ gives: padding between fields and at the end, nested structs, arrays."""
    import shutil
    import subprocess

    if shutil.which("g++") is None:
        pytest.skip("no g++")
    dtype = source.signature("plain", {}).parameters[0].dtype
    fields = "".join(
        f"static_assert(offsetof(ScaleSize, {name}) == {field[1]});"
        for name, field in dtype.fields.items()
    )
    text = (
        f"#include <cstddef>\n#define __align__(n) alignas(n)\n{SIZES}\n{fields}"
        f"static_assert(sizeof(ScaleSize) == {dtype.itemsize});"
    )
    subprocess.run(
        ["g++", "-std=c++17", "-fsyntax-only", "-x", "c++", "-"], input=text, text=True, check=True
    )


def test_the_comment_above_an_entry_point_has_sections(source):
    notes = source.entry_point("scale_forward").notes
    assert notes[""] == ("y = alpha * x.", "")
    assert notes["Mapping"] == ("one thread an element:", "no other.")
    assert notes["Limits"] == ("none",)
    assert list(notes) == ["", "Mapping", "Traffic", "Roofline", "Limits", "Source"]
    assert source.entry_point("nothing").notes == {"": ("Without a name of a section.",)}
    assert source.entry_point("plain").notes == {"": ()}


DEFINES = {"STORAGE": "bfloat16", "MASK": "int", "BLOCK": "256"}


def arguments_of(source, **fields):
    parameters = source.signature("scale_forward", DEFINES).parameters
    size = np.zeros((), parameters[3].dtype)
    for name, value in fields.items():
        size[name] = value
    return [Argument(p, size if p.name == "size" else None) for p in parameters]


def test_traffic_is_what_the_formulas_say(source):
    arguments = arguments_of(source, n=100, c=7)
    point = source.entry_point("scale_forward")
    reads, writes = traffic(point, arguments, DEFINES, (3, 2, 1))
    assert reads == 2 * (100 + 4) - 4
    assert writes == 8 * 6 * 256


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("n // 3 % 5 + 2 * -c", 33 % 5 - 14),
        ("max(n, c, 3) - min(n, c)", 93),
        ("1.5 * n / 2", 75),
        ("stride[1] + value", 22.5),
    ],
)
def test_a_formula_is_arithmetic(write, formula, value):
    text = re.sub(r"reads = .*?MASK_BYTES", f"reads = {formula}", SOURCE, flags=re.DOTALL)
    source = write(text, sizes=SIZES)
    arguments = arguments_of(source, n=100, c=7, stride=(1, 20, 3), pair=(1, 2.5))
    point = source.entry_point("scale_forward")
    assert traffic(point, arguments, DEFINES, (1, 1, 1))[0] == value


@pytest.mark.parametrize(
    ("formula", "fault"),
    [
        ("__import__('os').getcwd()", "cannot evaluate"),
        ("n.real", "cannot evaluate"),
        ("n ** n", "cannot evaluate"),
        ("[n for n in (1, 2)]", "cannot evaluate"),
        ("'text'", "cannot evaluate"),
        ("width * n", "'width'.*these names are known: .*STORAGE_BYTES"),
        ("n +", "invalid syntax"),
        ("n; c", "invalid syntax"),
    ],
)
def test_a_formula_is_nothing_but_arithmetic_over_known_names(write, formula, fault):
    text = re.sub(r"reads = .*?MASK_BYTES", f"reads = {formula}", SOURCE, flags=re.DOTALL)
    source = write(text, sizes=SIZES)
    point, arguments = source.entry_point("scale_forward"), arguments_of(source, n=1)
    with pytest.raises(SourceError, match=f"(?s)scale_forward: reads = .*{fault}"):
        traffic(point, arguments, DEFINES, (1, 1, 1))


def test_a_comment_without_formulas_is_an_error(source):
    with pytest.raises(SourceError, match=r"nothing: .*no line 'reads = ' under Traffic"):
        traffic(source.entry_point("nothing"), [], {}, (1, 1, 1))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("__global__ void f(Thing thing) {}", "f: unknown type 'Thing'"),
        ("typedef Thing Thing;\n__global__ void f(Thing* x) {}", "unknown type 'Thing'"),
        ("__global__ void f(float** x) {}", r"cannot read the parameter 'float\*\* x'"),
        ("__global__ void f(float) {}", "cannot read the parameter 'float'"),
        ("struct S { float* p; };\n__global__ void f(S s) {}", r"'float\*'"),
        ("struct S { int a[N]; };\n__global__ void f(S s) {}", "'N' is not the length"),
        ("__global__ void g() {}", "kernel.cu: no entry point f; there are: g"),
        ("__global__ void f() {}\n__global__ void f(int n) {}", "kernel.cu:2: f is defined twice"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_where(write, text, fault):
    with pytest.raises(SourceError, match=fault):
        write(text).signature("f", {})


def test_a_missing_include_names_both_files(write):
    with pytest.raises(SourceError, match=r"cannot read .*gone\.cuh, which .*kernel\.cu includes"):
        write('  #  include "gone.cuh"\n')


def test_includes_are_read_once_and_in_turn(write, tmp_path):
    others = {"a": '#include "b.cuh"\n', "b": '#include "a.cuh"\n// #include "c.cuh"\n'}
    source = write('#include "a.cuh"\n#include "b.cuh"\n', **others)
    assert [Path(p).name for p in source.files] == ["kernel.cu", "a.cuh", "b.cuh"]
