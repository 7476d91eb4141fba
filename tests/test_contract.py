"""Rules that every op folder obeys; read from the sources, so that no backend need be present."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import convolt.kernels

KERNELS = Path(convolt.kernels.__file__).parent
OPS = sorted(path.parent for path in KERNELS.rglob("on_numpy.py"))


def public_functions(source):
    """Public functions of a source file, its own and the definition's: name -> arguments."""
    functions = {}
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            functions[node.name] = [a.arg for a in node.args.args]
        elif isinstance(node, ast.ImportFrom) and node.module == "on_numpy" and node.level == 1:
            definition = public_functions(source.with_name("on_numpy.py"))
            functions |= {alias.name: definition[alias.name] for alias in node.names}
    return functions


def test_there_are_ops():
    assert {"conv2d", "linear", "max_pool2d", "batch_norm", "sgd"} <= {op.name for op in OPS}


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_implementations_have_the_functions_and_arguments_of_the_definition(op):
    definition = public_functions(op / "on_numpy.py")
    assert definition
    for implementation in op.glob("on_*.py"):
        assert public_functions(implementation) == definition, implementation.name
    assert (op / "on_numba.py").exists()


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_contract_function_is_documented(op):
    contract = import_module(f"convolt.kernels.{op.name}")
    assert contract.__doc__
    for name in public_functions(op / "__init__.py"):
        assert getattr(contract, name).__doc__, name


def imports(source):
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("library", ["numba", "cupy"])
def test_numba_and_cupy_are_imported_only_where_the_design_says(library):
    package = KERNELS.parent
    rooms = ("kernels", "engine", "layers", "optim", "models", "data", "training", "cli")
    allowed = {"numba": {"on_numba.py", "jit.py", "blas.py"}, "cupy": {"on_cuda.py"}}[library]
    sources = [p for room in rooms for p in (package / room).rglob("*.py")]
    assert len(sources) > 50
    guilty = [p for p in sources if library in imports(p) and p.name not in allowed]
    assert not guilty
