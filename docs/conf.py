"""Settings of the documentation: `make docs` builds it, and warnings are errors."""

import inspect
from pathlib import Path

from drivedit.data import CarRacingTwin
from drivedit_env.env import DriveDiTEnv
from drivedit_env.viewer.keys import HELP

project = "DriveDiT"
author = "The DriveDiT authors"
copyright = "The DriveDiT authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "DriveDiT"
html_static_path = ["images"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_ivar = True


def filled() -> dict[Path, str]:
    """The pages whose marked parts are made from the code: docstrings of environments, help of the keys, an example."""
    keys = "".join(f"| {key} | {text} |\n" for key, text in HELP)
    parts = {"keys": ("drive.md", f"| key | what it does |\n|---|---|\n{keys}")}
    for name, environment in (("dream", DriveDiTEnv), ("twin", CarRacingTwin)):
        lines = (inspect.getdoc(environment) or "").splitlines()
        parts[name] = "environment.md", "".join(f"#{line}\n" if line.startswith("#") else f"{line}\n" for line in lines)
    for name in ("domain", "drivers"):
        example = Path(__file__).parents[1] / "tests" / "toy" / "plane_world" / f"{name}.py"
        parts[name] = "add_a_simulator.md", f"```python\n{example.read_text()}```\n"
    texts: dict[Path, str] = {}
    for name, (page, text) in parts.items():
        path = Path(__file__).with_name(page)
        begin, end = f"<!-- {name}: made from the code by `make docs` -->\n", f"<!-- end of {name} -->"
        before, _, rest = texts.get(path, path.read_text()).partition(begin)
        texts[path] = f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
    return texts


def setup(app):
    """Fills pages from the code. The API page shows the first paragraph of the environments' docstrings alone."""
    for path, text in filled().items():
        if path.read_text() != text:
            path.write_text(text)

    def shorten(_app, _what, _name, thing, _options, lines):
        if thing in (DriveDiTEnv, CarRacingTwin):
            lines[lines.index("") :] = ["", "See :doc:`environment` for the whole specification."]

    app.connect("autodoc-process-docstring", shorten, priority=100)
