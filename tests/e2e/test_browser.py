"""What a user sees: the nodes in the menu, their widgets, help pages and translations, in both renderers."""


def test_front_end_opens(open_page, shots):
    page = open_page()
    page.screenshot(path=shots / "empty.png")
    assert "ComfyUI" in page.title()
