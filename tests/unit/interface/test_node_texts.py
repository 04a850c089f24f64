"""The front end shows the text of every node that returns one."""

import ast
import re


def texts(source):
    """Yields the ids of the nodes in a file that return a text for the front end."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            code = ast.unparse(node)
            shown = re.search(r"\{'text': ", code)
            name = re.search(r"node_id='(\w+)'", code)
            if shown and name:
                yield name[1]


def test_front_end_shows_the_text_of_every_node(repository):
    found = {
        name
        for path in (repository / "nodes").rglob("*.py")
        for name in texts(path.read_text(encoding="utf-8"))
    }
    script = (repository / "web" / "js" / "reports.js").read_text(encoding="utf-8")
    listed = re.search(r"const REPORTS = \{(.*?)\}", script, re.DOTALL)
    assert listed is not None
    assert len(found) > 5
    # Nodes whose own panel shows their text, or the same in a better way: node -> folder and output.
    own = {
        "InstructBrushLoad": ("gallery", "text"),
        "InstructBrushLoadPairs": ("pairs", "text"),
        "InstructBrushUniquePhrases": ("phrases", "phrases"),
        "InstructBrushFindRegion": ("regions", "region"),
    }
    for panel, shown in own.values():
        sources = (repository / "web" / "js" / panel).glob("*.js")
        show = re.compile(rf"onResult\(node, \(\{{ .*{shown}")
        assert any(show.search(path.read_text("utf-8")) for path in sources)
    assert found <= set(re.findall(r"(\w+):", listed[1])) | set(own)
