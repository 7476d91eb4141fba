"""Rules that every op folder obeys; read from the sources, so that no backend need be present."""

import ast
import subprocess
import sys
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
            names = [alias.name for alias in node.names if not alias.name.startswith("_")]
            functions |= {name: definition[name] for name in names}
    return functions


def test_there_are_ops():
    assert {"conv2d", "linear", "max_pool2d", "batch_norm", "sgd"} <= {op.name for op in OPS}


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_implementations_have_the_functions_and_arguments_of_the_definition(op):
    definition = public_functions(op / "on_numpy.py")
    assert definition
    assert public_functions(op / "on_numba.py") == definition
    launches = public_functions(op / "on_cuda.py")  # and the sizes of launches, for tests
    assert {name: launches.get(name) for name in definition} == definition


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_contract_function_is_documented(op):
    contract = import_module(f"convolt.kernels.{op.name}")
    assert contract.__doc__
    for name in public_functions(op / "__init__.py"):
        assert getattr(contract, name).__doc__, name


def imports(source):
    """Top-level packages that a source file imports, by statement or by ``import_module``."""
    for node in ast.walk(ast.parse(source.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.split(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.split(".")[0]
            case ast.Call(func=ast.Name(id="import_module"), args=[ast.Constant(value), *_]):
                yield value.split(".")[0]


NUMBA = ("kernels/*/on_numba.py", "kernels/cpu/*.py")
CUPY = ("kernels/cuda/*.py", "kernels/backend.py", "kernels/transfer.py")


@pytest.mark.parametrize(("library", "allowed"), [("numba", NUMBA), ("cupy", CUPY), ("cuda", CUPY)])
def test_numba_and_cupy_are_imported_only_where_the_design_says(library, allowed):
    package = KERNELS.parent
    rooms = ("kernels", "engine", "layers", "optim", "models", "data", "training", "cli")
    sources = [p for room in rooms for p in (package / room).rglob("*.py")]
    assert len(sources) > 50
    importing = {p for p in sources if library in imports(p)}
    assert importing, "this test would see nothing"
    assert not importing - {p for pattern in allowed for p in package.glob(pattern)}


def test_launches_on_cuda_import_neither_cupy_nor_numba():
    """All on_cuda.py files can be imported where neither is installed: the emulator uses them."""
    program = (
        "import sys; sys.modules['cupy'] = sys.modules['numba'] = None\n"
        "from convolt.kernels.cuda.table import all_kernels\n"
        "print(len(all_kernels()))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 0
