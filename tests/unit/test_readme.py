"""What the README shows is what the code says."""

import re
from pathlib import Path

from tesp_api.domain.lifecycle import mermaid

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_state_diagram_is_the_table() -> None:
    diagrams = re.findall(r"^```mermaid\n(.*?)\n```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert mermaid() in diagrams, "print(tesp_api.domain.lifecycle.mermaid()) is what belongs there"
