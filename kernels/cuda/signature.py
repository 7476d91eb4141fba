"""What a .cu file says about its kernels: parameters, structs, and the comment above each.

A kernel is launched from its text alone: the compiler is not asked. The text is C with what the
project's kernels use: entry points, structs of plain fields, typedefs, ``#define`` defaults.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from ..arrays import Array

C_TYPES: dict[str, np.dtype] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "bool": np.dtype(np.bool_),
    "signed char": np.dtype(np.int8),
    "unsigned char": np.dtype(np.uint8),
    "short": np.dtype(np.int16),
    "unsigned short": np.dtype(np.uint16),
    "int": np.dtype(np.int32),
    "unsigned": np.dtype(np.uint32),
    "unsigned int": np.dtype(np.uint32),
    "long long": np.dtype(np.int64),
    "unsigned long long": np.dtype(np.uint64),
}
# Only CUDA's headers, which NVRTC lacks, have these; kernels of others on the emulator use them.
_HEADER_TYPES = {
    "char": np.dtype(np.int8),
    "uint": np.dtype(np.uint32),
    "long": np.dtype(np.int64),
    "unsigned long": np.dtype(np.uint64),
    "size_t": np.dtype(np.uint64),
    "half": np.dtype(np.float16),
    "__half": np.dtype(np.float16),
    "__nv_bfloat16": np.dtype(ml_dtypes.bfloat16),
    **{f"{n}{bits}_t": np.dtype(f"{n}{bits}") for n in ("int", "uint") for bits in (8, 16, 32, 64)},
}
C_NAMES = {dtype.name: name for name, dtype in reversed(C_TYPES.items())}  # the shortest name

KEYWORDS = ("Mapping", "Traffic", "Roofline", "Limits", "Source")

_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+([^\n]*\S)[ \t]*$", re.MULTILINE)
_TYPEDEF = re.compile(r"\btypedef\s+([\w\s]+?)\s+(\w+)\s*;|\busing\s+(\w+)\s*=\s*([\w\s]+?)\s*;")
_STRUCT = re.compile(r"\bstruct\s+(?:__align__\((\d+)\)\s+)?(\w+)\s*\{([^{}()]*)\}\s*;")
_FIELD = re.compile(r"(\w+)\s*(?:\[\s*(\w+)\s*\])?")
_ENTRY = re.compile(
    r'^[ \t]*(?:extern\s+"C"\s+|static\s+)?__global__\s+'
    r"(?:void\s+|__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)+(\w+)\s*\(",
    re.MULTILINE,
)


_QUALIFIERS = ("__restrict__", "__restrict", "struct", "__grid_constant__", "volatile")
_TEMPLATE = re.compile(r"\btemplate\s*<[^;{}]*>\s*\Z")  # searched up to an entry point


class SourceError(ValueError):
    """A .cu file that does not say what a launch needs: the message names file and entry point."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an entry point, its types known.

    Attributes:
        name: As in the source.
        dtype: Of the value or, for a pointer, of what it points to. A struct's has its fields, in
            C layout.
        pointer: Whether it is a pointer to device memory.
        const: For a pointer: whether the kernel only reads it.
    """

    name: str
    dtype: np.dtype
    pointer: bool = False
    const: bool = False

    def __str__(self) -> str:
        name = "struct" if self.dtype.fields else C_NAMES.get(self.dtype.name, str(self.dtype))
        return f"{'const ' * self.const}{name}{'*' * self.pointer} {self.name}"


@dataclass(frozen=True, slots=True)
class Signature:
    """An entry point compiled with certain constants: its name and parameters."""

    entry: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class Argument:
    """What a launch hands over for one parameter.

    Attributes:
        parameter: Whose it is.
        value: For a pointer the array, or None for a null pointer. Else a NumPy array without
            axes that holds the value: exactly the bytes that the kernel is given.
    """

    parameter: Parameter
    value: Array | None


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """An entry point as the text has it.

    Attributes:
        name: Its name.
        line: Where it starts in its file, from 1.
        declarations: Its parameters, in C.
        comment: The ``//`` lines right above it, without the slashes.
    """

    name: str
    line: int
    declarations: tuple[str, ...]
    comment: tuple[str, ...]

    @property
    def notes(self) -> dict[str, tuple[str, ...]]:
        """The comment's sections: keyword -> its lines. What comes before them is under ""."""
        found: dict[str, list[str]] = {"": []}
        section = found[""]
        for line in self.comment:
            word, _, rest = line.strip().partition(" ")
            if word in KEYWORDS:
                section = found.setdefault(word, [])
                line = rest
            section.append(line.strip())
        return {keyword: tuple(lines) for keyword, lines in found.items()}

    def formula(self, name: str) -> str | None:
        """The expression of the line ``name = ...`` under Traffic, or None.

        It goes on over following lines while a bracket is open.
        """
        lines = iter(self.notes.get("Traffic", ()))
        for line in lines:
            if match := re.match(rf"{name}\s*=\s*(.*)", line):
                text = match[1]
                while text.count("(") > text.count(")"):
                    text += " " + next(lines, ")")
                return text
        return None


class Source:
    """The text of one .cu file and of all that it includes by ``#include "..."``.

    Attributes:
        path: The file.
        files: Path -> text, of the file and of each included one, in the order of inclusion.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[Path, str] = {}
        self._read(path)
        self._text = "\n".join(_without_comments(text) for text in self.files.values())

    def _read(self, path: Path, includer: Path | None = None) -> None:
        try:
            text = path.read_text()
        except OSError as error:
            by = f", which {includer} includes" if includer else ""
            raise SourceError(f"cannot read {path}{by}: {error.strerror}") from error
        self.files[path] = text
        for name in _INCLUDE.findall(_without_comments(text)):
            included = (path.parent / name).resolve()
            if included not in self.files:
                self._read(included, path)

    @cached_property
    def entry_points(self) -> dict[str, EntryPoint]:
        """The entry points of the file itself, by name.

        Raises:
            SourceError: A name is there twice.
        """
        text = self.files[self.path]
        lines = text.splitlines()
        stripped = _without_comments(text)
        found: dict[str, EntryPoint] = {}
        for match in _ENTRY.finditer(stripped):
            name, row = match[1], stripped.count("\n", 0, match.start())
            if _TEMPLATE.search(stripped, 0, match.start()):
                continue
            if name in found:
                raise SourceError(f"{self.path}:{row + 1}: {name} is defined twice")
            first = row
            while first and lines[first - 1].lstrip().startswith("//"):
                first -= 1
            comment = tuple(line.strip()[2:] for line in lines[first:row])
            parameters = _split(_bracketed(stripped, match.end()))
            found[name] = EntryPoint(name, row + 1, parameters, comment)
        return found

    def entry_point(self, name: str) -> EntryPoint:
        """The entry point of this name.

        Raises:
            SourceError: There is none; the message lists those that there are.
        """
        if name not in self.entry_points:
            known = ", ".join(self.entry_points) or "none"
            if re.search(r"\btemplate\b", self._text):
                known += " (a template has no name to launch: call it from a function that is none)"
            raise SourceError(f"{self.path}: no entry point {name}; there are: {known}")
        return self.entry_points[name]

    def signature(self, entry: str, defines: Mapping[str, str]) -> Signature:
        """The parameters of ``entry`` when compiled with ``defines``.

        Raises:
            SourceError: There is no such entry point, or a type is not understood.
        """
        point = self.entry_point(entry)
        types = _Types(self, defines, f"{self.path}:{point.line}: {entry}")
        return Signature(entry, tuple(types.parameter(d) for d in point.declarations))

    @cached_property
    def defaults(self) -> dict[str, str]:
        """What ``#define`` says: name -> text. A -D constant goes before it."""
        return dict(_DEFINE.findall(self._text))

    @cached_property
    def typedefs(self) -> dict[str, str]:
        """Name -> the type that it stands for."""
        return {
            new or alias: old or meant for old, new, alias, meant in _TYPEDEF.findall(self._text)
        }

    @cached_property
    def structs(self) -> dict[str, tuple[str, int]]:
        """Name -> the text of its fields and its least alignment, for structs without functions."""
        found = _STRUCT.findall(self._text)
        return {name: (body, int(alignment or 1)) for alignment, name, body in found}


@cache
def read(path: Path) -> Source:
    """The source at ``path``, read once in a process.

    Raises:
        SourceError: It, or a file that it includes, cannot be read.
    """
    return Source(path.resolve())


class _Types:
    """C types, with the constants of one compilation, to NumPy's."""

    def __init__(self, source: Source, defines: Mapping[str, str], where: str) -> None:
        self._source = source
        self._macros = source.defaults | dict(defines)
        self._where = where

    def parameter(self, declaration: str) -> Parameter:
        """``const Storage* __restrict__ x`` -> Parameter."""
        words = declaration.replace("*", " * ").split()
        words = [w for w in words if w not in _QUALIFIERS]
        name, stars = words[-1], words.count("*")
        if stars > 1 or len(words) < 2 or not name.isidentifier():
            self._fail(f"cannot read the parameter {declaration!r}")
        pointee = words[: words.index("*")] if stars else words[:-1]
        c_type = " ".join(w for w in pointee if w != "const")
        return Parameter(name, self.dtype(c_type), bool(stars), bool(stars) and "const" in pointee)

    def dtype(self, c_type: str) -> np.dtype:
        """The dtype of a C type's name."""
        seen = set()
        while c_type not in C_TYPES and c_type not in seen:
            seen.add(c_type)
            if c_type == "Real":  # a typedef of common.cuh that only a compiler can read
                c_type = "double" if self.dtype("STORAGE") == np.float64 else "float"
            elif c_type in self._source.structs:
                return self._struct(*self._source.structs[c_type])
            else:
                c_type = self._macros.get(c_type) or self._source.typedefs.get(c_type, c_type)
        if c_type in _HEADER_TYPES:
            return _HEADER_TYPES[c_type]
        if c_type not in C_TYPES:
            self._fail(f"unknown type {c_type!r}")
        return C_TYPES[c_type]

    def _struct(self, body: str, alignment: int) -> np.dtype:
        """Fields in C layout: each aligned to its size, the whole to its largest, or as it says."""
        fields: list[Any] = []
        for declaration in filter(str.strip, body.split(";")):
            first, *others = (" ".join(part.split()) for part in declaration.split(","))
            c_type, _, first = first.replace(" [", "[").rpartition(" ")
            dtype = self.dtype(c_type)
            for declarator in (first, *others):
                match = _FIELD.fullmatch(declarator)
                if match is None:
                    self._fail(f"cannot read the field {declarator!r}")
                shape = self._length(match[2]) if match[2] else ()
                fields.append((match[1], dtype, shape))
        if not fields:
            self._fail("a struct without fields")
        dtype: Any = np.dtype(fields, align=True)
        formats, offsets = zip(*(dtype.fields[name][:2] for name in dtype.names), strict=True)
        itemsize = dtype.itemsize + -dtype.itemsize % alignment
        layout: Any = {"names": dtype.names, "formats": formats, "offsets": offsets}
        return np.dtype(layout | {"itemsize": itemsize}, align=True)

    def _length(self, text: str) -> tuple[int, ...]:
        text = self._macros.get(text, text)
        if not text.isdigit():
            self._fail(f"{text!r} is not the length of an array")
        return (int(text),)

    def _fail(self, fault: str) -> NoReturn:
        raise SourceError(f"{self._where}: {fault}")


def traffic(
    point: EntryPoint,
    arguments: Sequence[Argument],
    defines: Mapping[str, str],
    grid: tuple[int, int, int],
    *,
    dram: bool = False,
) -> tuple[float, float]:
    """Bytes that a launch reads and writes, by the formulas in its comment.

    Args:
        point: The entry point.
        arguments: Of the launch: numbers and struct fields are known by their names; of a pointer
            ``p``, ``has_p`` is 1, or 0 where it is null.
        defines: Of the compilation, BLOCK among them: an integer is known by its name, a type
            gives ``NAME_BYTES``.
        grid: Blocks of the launch; their number is GRID.
        dram: Count each byte once, what DRAM moves where caches hold the rest: by dram_reads and
            dram_writes, where the comment has them, which differ from reads and writes.

    Raises:
        SourceError: The comment has no formula, or one that is no arithmetic over known names.
    """
    names: dict[str, Any] = {"GRID": grid[0] * grid[1] * grid[2]}
    for name, text in defines.items():
        if text in C_TYPES:
            names[f"{name}_BYTES"] = C_TYPES[text].itemsize
        else:
            names[name] = int(text)
    for argument in arguments:
        if argument.parameter.pointer:
            names[f"has_{argument.parameter.name}"] = int(argument.value is not None)
        elif argument.value is not None:
            _add_names(names, argument.parameter.name, argument.value)

    def bytes_of(which: str) -> float:
        own = f"dram_{which}"
        return _evaluate(point, own if dram and point.formula(own) else which, names)

    return bytes_of("reads"), bytes_of("writes")


def _add_names(names: dict[str, Any], name: str, value: np.ndarray) -> None:
    if not value.dtype.fields:
        names[name] = value.tolist()
    else:
        for field in value.dtype.fields:
            _add_names(names, field, value[field])


_OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, Any] = {"ceil_div": lambda a, b: -(-a // b), "min": min, "max": max}


def _evaluate(point: EntryPoint, which: str, names: Mapping[str, Any]) -> float:
    formula = point.formula(which)
    if formula is None:
        raise SourceError(f"{point.name}: its comment has no line '{which} = ' under Traffic")

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=int() | float()):
                return node.value
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.BinOp() if type(node.op) in _OPERATORS:
                return _OPERATORS[type(node.op)](value(node.left), value(node.right))
            case ast.UnaryOp() if type(node.op) in _OPERATORS:
                return _OPERATORS[type(node.op)](value(node.operand))
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](*(value(a) for a in node.args))
            case ast.Subscript():
                return value(node.value)[value(node.slice)]
        known = ", ".join(sorted(names))
        raise SourceError(
            f"{point.name}: {which} = {formula}: cannot evaluate {ast.unparse(node)!r}; "
            f"numbers, + - * / // %, ceil_div, min, max and these names are known: {known}"
        )

    try:
        return value(ast.parse(formula, mode="eval").body)
    except SyntaxError as error:
        raise SourceError(f"{point.name}: {which} = {formula}: {error.msg}") from error


def _without_comments(text: str) -> str:
    """``text`` with comments made blanks: every other character stays where it was."""
    return _COMMENT_OR_STRING.sub(
        lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\n]", " ", m[0]), text
    )


def _bracketed(text: str, start: int) -> str:
    """What is between an opening bracket, which ends before ``start``, and its closing one."""
    depth = 1
    for end in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if not depth:
            return text[start:end]
    raise SourceError("a bracket is not closed")


def _split(parameters: str) -> tuple[str, ...]:
    parts = (" ".join(part.split()) for part in parameters.split(","))
    return tuple(part for part in parts if part and part != "void")
