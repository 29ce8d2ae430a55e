"""No line of the source can run what a file holds: neither as a pickle nor as a command."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.promise("5 untrusted files")

REPOSITORY = Path(__file__).parents[2]
FILES = sorted([*(REPOSITORY / "src").rglob("*.py"), *REPOSITORY.glob("*.py")])
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads",
    "pickle.Unpickler", "marshal.loads", "shelve.open", "joblib.load", "dill.load", "dill.loads",
    "cloudpickle.load", "cloudpickle.loads", "torch.jit.load", "torch.package.PackageImporter",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "pandas.read_pickle",
    "numpy.fromregex", "subprocess.getoutput", "subprocess.getstatusoutput", "torch.hub.load",
}  # fmt: skip
NEEDED = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
NEVER = {"shell": True, "trust_remote_code": True, "allow_pickle": True, "weights_only": False}


def problems(code: str) -> Iterator[str]:
    """What in a file's code could run what another file holds."""
    tree = ast.parse(code)
    imported = dict(_imported(tree))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = _name(call.func, imported)
        given = {k.arg: getattr(k.value, "value", ...) for k in call.keywords}
        if name in FORBIDDEN:
            yield f"line {call.lineno}: {name}"
        if name in NEEDED and given.get(NEEDED[name][0], ...) is not NEEDED[name][1]:
            yield f"line {call.lineno}: {name} without {NEEDED[name][0]}={NEEDED[name][1]}"
        for option, value in NEVER.items():
            if given.get(option) is value or given.get(option) is ...:
                yield f"line {call.lineno}: {name} with {option}"


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What a name in the file stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.asname or a.name, a.name) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((a.asname or a.name, f"{node.module}.{a.name}") for a in node.names)


def _name(node: ast.AST, imported: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value, imported)}.{node.attr}"
    return imported.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def test_no_file_of_the_source_runs_what_it_reads() -> None:
    assert len(FILES) > 100
    found = {str(path): list(problems(path.read_text(encoding="utf-8"))) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)",
        "import os\nos.system(x)",
        "import os as o\no.popen(x)",
        "from pickle import loads as f\nf(x)",
        "import torch\ntorch.load(x)",
        "import torch\ntorch.load(x, weights_only=False)",
        "import torch\ntorch.load(x, weights_only=safe)",
        "import numpy as np\nnp.load(x)",
        "import numpy as np\nnp.load(x, allow_pickle=True)",
        "import yaml\nyaml.load(x, yaml.Loader)",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "from transformers import AutoModel\nAutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_the_check_finds_them(code: str) -> None:
    assert len(list(problems(code))) >= 1


def test_what_is_safe_passes() -> None:
    code = "import torch\ntorch.load(x, weights_only=True)\nimport numpy as np\n"
    code += "np.load(x, allow_pickle=False)\nmodel.eval()"
    assert list(problems(code)) == []
