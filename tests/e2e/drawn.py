"""Waits for what the page and the server still do."""

import time

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


SETTLED = """(id) => new Promise((done) => {
    const heights = [];
    const look = () => {
        heights.push(app.graph.getNodeById(id).size[1]);
        const last = heights.slice(-5);
        if (last.length === 5 && last.every((height) => height === last[0])) return done(last[0]);
        setTimeout(look, 100);
    };
    look();
})"""


def settled_height(page, node):
    """Returns a node's height once it is the same for half a second. The Vue renderer measures nodes late."""
    page.evaluate(FRAMES)
    return page.evaluate(SETTLED, node)


def wait_until_idle(server, seconds=240):
    """Waits until the queue is empty. The history then holds all runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        queue = server.get("/queue")
        if not queue["queue_running"] and not queue["queue_pending"]:
            return
        time.sleep(0.2)
    raise AssertionError(f"the server is still busy:\n{server.tail()}")
