"""Waits before screenshots."""

IMAGES = """() => {
    const images = [...document.querySelectorAll("[class^=ib-] img[src], [class^=ibg-] img[src]")];
    return images.every((image) => {
        const { top, bottom } = image.getBoundingClientRect();
        return image.naturalWidth || bottom < 0 || top > innerHeight || !image.checkVisibility();
    });
}"""
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def drawn(page):
    """Waits until the visible images of panels are there, and the page is drawn."""
    page.wait_for_function(IMAGES)
    page.evaluate(FRAMES)
