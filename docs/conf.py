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
exclude_patterns = ["_build", "_*.md"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_ivar = True

# The environments' docstrings are their specifications, in Markdown; docs/environment.md includes them.
for name, environment in (("dream", DriveDiTEnv), ("twin", CarRacingTwin)):
    Path(__file__).with_name(f"_{name}.md").write_text(inspect.getdoc(environment) or "")

# The keys are those of the window's own help; docs/drive.md includes them.
keys = "".join(f"| {key} | {text} |\n" for key, text in HELP)
Path(__file__).with_name("_keys.md").write_text(f"| key | what it does |\n|---|---|\n{keys}")


def setup(app):
    """Of the environments, whose docstrings are Markdown, the API page shows the first paragraph alone."""

    def shorten(_app, _what, _name, thing, _options, lines):
        if thing in (DriveDiTEnv, CarRacingTwin):
            lines[lines.index("") :] = ["", "See :doc:`environment` for the whole specification."]

    app.connect("autodoc-process-docstring", shorten, priority=100)
