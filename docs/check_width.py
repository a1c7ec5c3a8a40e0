"""Opens every built page in a window of some width, and lists what does not fit into it.

    python docs/check_width.py build/docs                 # a window of 1,300 pixels
    python docs/check_width.py build/docs --width 1400

It needs Chromium, or a browser that is started in the same way: ``--browser``. Something does not
fit if it is cut off, if it needs a scroll bar of its own to be seen whole, or if it reaches out of
the column of text.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

TIMEOUT_SECONDS = 120  # for one page
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",  # keeps the browser open
)

# Opens the pages one after the other, in a frame as wide as the window that is asked for, and
# sends what it finds to the server.
SCRIPT = """
<!doctype html><title>width</title><body style="margin: 0"><script>
const [width, pages] = [$WIDTH, $PAGES];

function isHidden(element) {
  const box = element.getBoundingClientRect();
  return box.width <= 1 || box.height <= 1 || element.closest(".visually-hidden, mjx-container *");
}

function describe(element, over) {
  const name = element.tagName.toLowerCase();
  const kind = [...element.classList].map(word => "." + word).join("");
  const text = (element.getAttribute("src") || element.textContent).trim().replace(/\\s+/g, " ");
  return {element: name + kind, over: Math.round(over), text: text.slice(0, 60)};
}

function findFaults(view) {
  const page = view.document;
  const column = page.querySelector(".content");
  const [edge, right] = [page.documentElement.clientWidth, column.getBoundingClientRect().right];
  const [wide, faults] = [new Set(), []];
  for (const element of page.querySelectorAll("body, body *")) {
    if (isHidden(element) || wide.has(element.parentElement)) {
      wide.add(element);  // nothing more is said of what is within
      continue;
    }
    const clips = view.getComputedStyle(element).overflowX !== "visible";
    const wider = element.scrollWidth - element.clientWidth;
    const higher = column.contains(element) ? element.scrollHeight - element.clientHeight : 0;
    const unseen = Math.max(wider, higher);
    const box = element.getBoundingClientRect();
    const outside = box.right - (column.contains(element) ? right : edge);
    const spills = outside > 1 && box.left < edge;  // beyond the edge lies a drawer that is shut
    if ((clips && unseen > 1) || spills) {
      wide.add(element);
      faults.push(describe(element, clips ? unseen : outside));
    }
  }
  return faults;
}

function load(address) {
  return new Promise(resolve => {
    const frame = document.createElement("iframe");
    frame.style = `border: 0; width: ${width}px; height: 900px`;
    frame.onload = () => resolve(frame);
    frame.src = address;
    document.body.replaceChildren(frame);
  });
}

async function run() {
  for (const address of pages) {
    const view = (await load(address)).contentWindow;
    for (const part of view.document.querySelectorAll("details")) part.open = true;
    for (const image of view.document.images) image.loading = "eager";
    await Promise.all([...view.document.images].map(image => image.decode().catch(() => null)));
    if (view.MathJax) await view.MathJax.startup.promise;
    await view.document.fonts.ready;
    const found = {page: address.slice(1), faults: findFaults(view)};
    await fetch("/found", {method: "POST", body: JSON.stringify(found)});
  }
}
run();
</script>
"""


class Handler(SimpleHTTPRequestHandler):
    """Serves the built pages and the script, and takes what the script finds."""

    server: Server

    def do_GET(self) -> None:
        """A file; the script at an address that no page has."""
        if self.path != "/width":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.server.script.encode())

    def do_POST(self) -> None:
        """What was found on one page."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.server.found.put(json.loads(body))

    def log_message(self, *message: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """Serves the pages of a folder at a free port of this machine, in a thread of its own."""

    def __init__(self, folder: Path, script: str) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.script = script
        self.found: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self.serve_forever, daemon=True).start()


def measure(folder: Path, width: int, browser: str) -> dict[str, list[dict[str, Any]]]:
    """Measure what does not fit, by page.

    Args:
        folder: of the built pages.
        width: of the window, in pixels.
        browser: the program, by its name or path.

    Raises:
        SystemExit: if there are no pages, or the browser cannot be started or does not answer.
    """
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    pages = sorted(f"/{name}" for name in files if not name.startswith("_static/"))
    if not pages:
        raise SystemExit(f"{folder} has no pages: build them first, with `make docs`")
    script = SCRIPT.replace("$WIDTH", str(width)).replace("$PAGES", json.dumps(pages))
    with (
        Server(folder, script) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        address = f"http://127.0.0.1:{server.server_port}/width"
        window = f"--window-size={width},900"
        command = [browser, *QUIET, window, f"--user-data-dir={profile}", address]
        try:
            process = Popen(command, stdout=DEVNULL, stderr=DEVNULL)
        except OSError as error:
            raise SystemExit(f"{browser} cannot be started: {error}") from None
        try:
            found = [server.found.get(timeout=TIMEOUT_SECONDS) for _ in pages]
        except queue.Empty:
            raise SystemExit(f"{browser} did not answer for {TIMEOUT_SECONDS} seconds") from None
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
    return {entry["page"]: entry["faults"] for entry in found}


def main() -> None:
    """Print what does not fit; the exit status is 1 if there is anything."""
    parser = argparse.ArgumentParser(description="List what does not fit into a window, by page.")
    parser.add_argument("folder", type=Path, help="the built pages, such as build/docs")
    parser.add_argument(
        "--width", type=int, default=1300, help="of the window, in pixels (default: 1300)"
    )
    parser.add_argument(
        "--browser",
        default="chromium",
        help="Chromium, or what is started alike (default: chromium)",
    )
    arguments = parser.parse_args()
    found = measure(arguments.folder, arguments.width, arguments.browser)
    count = sum(map(len, found.values()))
    for page, faults in found.items():
        for fault in faults:
            over = f"{fault['over']} pixels too large"
            print(f"{page}: {fault['element']} is {over}: {fault['text']}")
    print(f"{len(found)} pages, {count} elements that do not fit into {arguments.width} pixels")
    sys.exit(count > 0)


if __name__ == "__main__":
    main()
