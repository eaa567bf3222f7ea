"""The architecture as tests: what may import what, what is pure, how large, and what is documented.

Everything here reads source text; nothing is imported or run.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef
PACKAGES = ("firedoor", "mirror", "agent", "helper", "simulator")

# A layer is a name and the modules or packages in it.
LAYERS = {
    "base": tuple(
        f"firedoor.{name}" for name in ("errors", "units", "limits", "identity", "effects", "dice")
    ),
    "wire": ("firedoor.wire",),
    "trust": ("firedoor.trust",),
    "pieces": ("firedoor.pieces",),
    "gossip": ("firedoor.gossip",),
    "halt": ("firedoor.halt",),
    "swarm": ("firedoor.swarm",),
    "node": ("firedoor.node",),
    "agent decisions": ("agent.decisions",),
    "mirror decisions": ("mirror.rollout", "mirror.telemetry.summary"),
    "runtime": ("firedoor.runtime",),
    "cli": ("firedoor.cli",),
    "agent": ("agent",),
    "mirror": ("mirror",),
    "helper": ("helper",),
    "simulator": ("simulator",),
}
LAYER_OF = {prefix: layer for layer, prefixes in LAYERS.items() for prefix in prefixes}

# Which layers a layer may import beside itself. What is not here is refused: siblings above all.
GROUND = {"base", "wire"}
FACTS = GROUND | {"trust", "pieces", "gossip"}
CORES = FACTS | {"halt", "swarm", "node"}
PROGRAM = CORES | {"runtime"}
MAY_IMPORT = {
    "base": set[str](),
    "wire": {"base"},
    "trust": GROUND,
    "pieces": GROUND,
    "gossip": GROUND,
    "halt": FACTS,
    "swarm": FACTS,
    "node": CORES,
    "agent decisions": CORES,
    "mirror decisions": CORES,
    "runtime": CORES,
    "cli": PROGRAM,
    "agent": PROGRAM | {"agent decisions"},
    "mirror": PROGRAM | {"mirror decisions"},
    "helper": set(),
    "simulator": CORES | {"agent decisions", "mirror decisions"},
}

# Rooms inside a layer, the lowest first; rooms of one floor never import one another. What is in no
# folder: the ground of the runtime; of the commands the options, and what is above them all.
ROOMS = {
    "firedoor.runtime": (
        {"clocks", "files", "folders", "logs", "settings", "terminal"},
        {"metadata", "storage"},
        {"keys"},
        {"network"},
        {"host"},
        {"program"},
    ),
    "firedoor.cli": (
        {"options"},
        {"client"},
        {"fleet", "orders", "releases"},
        {"airgap", "demo"},
        {"status"},
        {"main"},
    ),
}

PURE = CORES | {"agent decisions", "mirror decisions"}
IMPURE_MODULES = {"asyncio", "socket", "ssl", "os", "pathlib", "tempfile", "subprocess"} | {
    *("threading", "time", "random", "secrets", "uuid", "logging", "aiohttp", "zeroconf", "uvloop")
}
# id() and hash() differ between two runs; the rest touches the world.
IMPURE_CALLS = {"open", "input", "print", "id", "hash", "exec", "eval"}
IMPURE_METHODS = {"now", "utcnow", "today"}

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500
PARAMETERS_MAX = 5
# Today's exceptions by name, with today's size. May only shrink.
TOO_LARGE: dict[str, int] = {}


@cache
def sources() -> dict[str, tuple[Path, ast.Module]]:
    """Every module of ours by its dotted name."""
    found = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = (path, ast.parse(path.read_text("utf-8"), str(path)))
    return found


def layer_of(module: str) -> str:
    # The package itself holds its version and nothing else; a new module in it must find a layer.
    if module == "firedoor":
        return "base"
    parts = module.split(".")
    prefixes = [".".join(parts[:size]) for size in range(len(parts), 0, -1)]
    layer = next((LAYER_OF[prefix] for prefix in prefixes if prefix in LAYER_OF), None)
    assert layer is not None, f"{module}: no layer in LAYERS"
    return layer


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, wherever in the module it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Function, bool]]:
    """Name, function and whether it is a method, for each function that stands in no other."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}.{node.name}")
        elif isinstance(node, Function):
            yield f"{prefix}.{node.name}", node, isinstance(tree, ast.ClassDef)
        elif not isinstance(node, ast.expr):
            yield from functions(node, prefix)


def sizes() -> dict[str, int]:
    """Whatever is larger than it may be, by name."""
    large = {}
    for module, (path, tree) in sources().items():
        lines = len(path.read_text("utf-8").splitlines())
        if lines > MODULE_LINES_MAX:
            large[module] = lines
        for name, function, is_method in functions(tree, module):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                large[f"{name}()"] = lines
            decorators = {ast.unparse(decorator) for decorator in function.decorator_list}
            has_self = is_method and "staticmethod" not in decorators
            count = len(function.args.posonlyargs) + len(function.args.args) - has_self
            if count > PARAMETERS_MAX:
                large[f"{name}(...)"] = count
    return large


def test_imports_point_downwards() -> None:
    wrong = []
    for module, (path, tree) in sources().items():
        here = layer_of(module)
        for line, name in imports(tree):
            known = name.split(".")[0] in PACKAGES
            # `from firedoor import __version__` names no module of its own.
            if not known or name.startswith("firedoor.__"):
                continue
            layer = layer_of(name)
            if layer != here and layer not in MAY_IMPORT[here]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} imports {layer} ({name})")
    assert not wrong, "\n".join(wrong)


def floor_of(module: str) -> tuple[str, str, int] | None:
    """The layer, the room and its floor, of a module of a layer that has rooms."""
    for layer, floors in ROOMS.items():
        if module.startswith(f"{layer}."):
            room = module.removeprefix(f"{layer}.").split(".")[0]
            height = next((at for at, rooms in enumerate(floors) if room in rooms), None)
            assert height is not None, f"{module}: no floor in ROOMS"
            return layer, room, height
    return None


def test_rooms_import_from_floors_below() -> None:
    wrong = []
    for module, (path, tree) in sources().items():
        here = floor_of(module)
        for line, name in imports(tree):
            there = floor_of(name)
            if here is None or there is None or here[0] != there[0]:
                continue
            is_same = here[1] == there[1] or here[2] == there[2] == 0
            if not is_same and there[2] >= here[2]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {here[1]} imports {name}")
    assert not wrong, "\n".join(wrong)


def graph() -> dict[str, set[str]]:
    """The modules of ours that each module imports, for types alone as well."""
    known = sources()
    found = {}
    for module, (_, tree) in known.items():
        named = {name for _, name in imports(tree)}
        # `from a import b` gives `a` and `a.b`: where `a.b` is a module, that is what is meant.
        meant = {name for name in named if name in known}
        packages = {name.rpartition(".")[0] for name in meant}
        found[module] = meant - packages - {module}
    return found


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """A circle of imports for each module that a walk meets again before it has left it."""
    found, done = [], set[str]()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for each in sorted(edges.get(module, ())):
                walk(each, [*path, module])
            done.add(module)

    for module in sorted(edges):
        walk(module, [])
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    wrong = [" -> ".join(circle) for circle in circles(graph())]
    assert not wrong, "\n".join(wrong)


def test_every_attribute_has_a_value_once_its_object_is_made() -> None:
    wrong = [
        f"{module}:{node.lineno}: {ast.unparse(node)}"
        for module, (_, tree) in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign)
        if isinstance(node.target, ast.Attribute) and node.value is None
    ]
    assert not wrong, "\n".join(wrong)


# What a program may look at through its node: values with questions of their own.
LOOKED_AT = {"orders", "lease", "carried", "releases", "sessions", "refusals"}


def chain(node: ast.expr) -> list[str]:
    """The names of `a.b.c`, the first to the last."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else names


def test_programs_ask_the_node_and_reach_through_it_for_nothing() -> None:
    wrong = []
    for module, (path, tree) in sources().items():
        if layer_of(module) in PURE:
            continue
        for each in ast.walk(tree):
            if not isinstance(each, ast.Attribute):
                continue
            names = chain(each)
            beyond = names[names.index("node") + 1 :] if "node" in names else []
            if len(beyond) > 1 and (beyond[0] not in LOOKED_AT or len(beyond) > 2):
                wrong.append(f"{path.relative_to(ROOT)}:{each.lineno}: {'.'.join(names)}")
    assert not wrong, "\n".join(wrong)


def test_imports_are_absolute() -> None:
    wrong = [
        f"{module}:{line}"
        for module, (_, tree) in sources().items()
        for line, name in imports(tree)
        if name.startswith(".")
    ]
    assert not wrong


def test_decisions_touch_no_world() -> None:
    wrong = []
    for module, (path, tree) in sources().items():
        if layer_of(module) not in PURE:
            continue
        here = path.relative_to(ROOT)
        for line, name in imports(tree):
            if name.split(".")[0] in IMPURE_MODULES:
                wrong.append(f"{here}:{line}: imports {name}")
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
                    wrong.append(f"{here}:{node.lineno}: calls {name}()")
                case ast.Call(func=ast.Attribute(value=owner, attr=name)) if (
                    name in IMPURE_METHODS and ast.unparse(owner).split(".")[-1].startswith("date")
                ):
                    wrong.append(f"{here}:{node.lineno}: reads the clock")
    assert not wrong, "\n".join(wrong)


def test_nothing_outgrows_a_screen_or_a_thought() -> None:
    large = sizes()
    grown = {name: size for name, size in large.items() if size > TOO_LARGE.get(name, 0)}
    assert not grown, f"too large: {grown}"
    shrunk = {name: size for name, size in TOO_LARGE.items() if large.get(name, 0) < size}
    assert not shrunk, f"smaller than TOO_LARGE says, so lower it there: {shrunk}"


def test_public_names_are_documented() -> None:
    bare = []
    for module, (_, tree) in sources().items():
        if not ast.get_docstring(tree):
            bare.append(module)
        classes = [(f"{module}.{n.name}", n) for n in tree.body if isinstance(n, ast.ClassDef)]
        methods = [(name, function) for name, function, _ in functions(tree, module)]
        bare += [name for name, node in (*classes, *methods) if not ast.get_docstring(node)]
    public = [name for name in bare if not re.search(r"\._", name.replace(".__main__", ""))]
    assert not public


def test_every_limit_has_its_reason_above_it() -> None:
    path, tree = sources()["firedoor.limits"]
    lines = path.read_text("utf-8").splitlines()
    limits = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    starts = {node.lineno for node in limits}
    bare = []
    for node in limits:
        line = node.lineno - 1
        # A pair such as MIN and MAX shares one comment.
        while line in starts:
            line -= 1
        if not lines[line - 1].startswith("#"):
            bare.append(lines[node.lineno - 1])
    assert limits
    assert not bare


def test_no_name_hides_the_standard_library() -> None:
    names = {path.stem for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert not names & sys.stdlib_module_names


def test_every_error_appears_in_a_test() -> None:
    _, tree = sources()["firedoor.errors"]
    errors = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    here = Path(__file__)
    text = "\n".join(
        path.read_text("utf-8") for path in here.parent.rglob("test_*.py") if path != here
    )
    assert errors
    assert not {name for name in errors if not re.search(rf"\b{name}\b", text)}


def test_every_setting_is_explained_in_config_d() -> None:
    settings = ROOT / "firedoor" / "runtime" / "settings.py"
    if not settings.exists():
        pytest.skip("firedoor/runtime/settings.py does not exist yet")
    keys = {
        field.target.id
        for node in ast.parse(settings.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
    explained = set()
    for path in (ROOT / "deploy" / "config.d").glob("*.toml"):
        text = path.read_text("utf-8")
        # A key or the head of a table, in use or as a commented-out example, below a comment.
        explained |= set(re.findall(r"^#.*\n(?:# ?)?\[?([a-z_]+)(?: =|[\].])", text, re.MULTILINE))
    assert keys
    assert not keys - explained


def test_the_code_map_in_the_readme_is_the_tree_on_disk() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    block = re.search(r"^.*Code map.*$(?:\n(?!```).*)*\n```.*\n((?:.*\n)*?)```", text, re.MULTILINE)
    assert block is not None, "README.md: wanted a line `Code map` and a fenced block below it"
    listed = set(re.findall(r"^\s*((?:[\w.-]+/)+)(?:\s|$)", block[1], re.MULTILINE))
    packages = {
        f"{init.parent.relative_to(ROOT).as_posix()}/"
        for pattern in ("*/__init__.py", "*/*/__init__.py")
        for init in ROOT.glob(pattern)
        if init.relative_to(ROOT).parts[0] in PACKAGES
    }
    assert not packages - listed
    assert not {folder for folder in listed if not (ROOT / folder).is_dir()}


def test_the_locks_name_packages_only() -> None:
    # An index, a mirror or a folder of one machine in a lock breaks it on every other.
    place = re.compile(r"://|--(extra-)?index|--find-links|file:|(^|[\s@=])(~?/|[A-Za-z]:\\)")
    wrong = [
        f"{path.name}:{number}: {line}"
        for path in ROOT.glob("requirements*.txt")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if place.search(line)
    ]
    assert not wrong


# --- documents ---------------------------------------------------------------------------------

# `halt/README.md`, and after a comma the heading that is meant.
REFERENCE = re.compile(r"(?<![\w./-])((?:[\w.-]+/)*[A-Za-z_]+\.md)\b(?:,\s+(?:#\s+)?([A-Z]\w*))?")


def documents() -> Iterator[Path]:
    """The texts in which documents are named."""
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")
        yield from (ROOT / package).rglob("*.md")
    yield from (ROOT / "tests").rglob("*.py")
    yield from ROOT.glob("*.md")
    yield from (ROOT / "deploy").rglob("*.md")


def found_at(name: str, named_in: Path) -> Path | None:
    """Where the document is: as seen from the text that names it, from a package or from here."""
    places = (named_in.parent, ROOT / "firedoor", ROOT, ROOT / "tests")
    return next((each / name for each in places if (each / name).is_file()), None)


def test_every_reference_to_a_document_leads_to_it() -> None:
    wrong = []
    for path in documents():
        if path == Path(__file__):
            continue
        for name, heading in REFERENCE.findall(path.read_text("utf-8")):
            document = found_at(name, path)
            where = f"{path.relative_to(ROOT)}: {name}"
            if document is None:
                wrong.append(f"{where} is nowhere")
            elif heading and name == "halt/README.md":
                text = document.read_text("utf-8")
                wrong += [] if heading in text else [f"{where} has no {heading!r}"]
    assert not wrong, "\n".join(wrong)


def test_every_class_in_the_glossary_exists() -> None:
    named = set(re.findall(r"`([A-Z]\w+)`", (ROOT / "firedoor" / "GLOSSARY.md").read_text("utf-8")))
    classes = {
        node.name
        for _, tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    assert named
    assert not named - classes
