"""Load time of the Workbench: from opening the address to a usable form, with an empty browser cache.

python -m benchmarks.server.workbench --visits 20
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.report import bootstrap, percentile, show
from tests.support.browser import BrowserPage, chromium
from tests.support.server_process import ServerProcess

WEB = Path(__file__).parents[2] / "server" / "web"
# the page sets this attribute when it is ready
READY = """() => new Promise(resolve => {
  const look = () => document.body?.dataset.ready ? resolve(performance.now()) : requestAnimationFrame(look);
  look();
})"""


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paddock") as folder, chromium() as browser:
        server = ServerProcess(Path(folder) / "data")
        server.start()
        try:
            seconds = [visit(BrowserPage(browser, server.url)) for _ in range(options.visits)]
        finally:
            server.stop()
            server.close()
    size = sum(path.stat().st_size for path in WEB.rglob("*") if path.is_file())
    median, (low, high) = statistics.median(seconds), bootstrap(seconds)
    figures = {"visits": len(seconds), "median_s": median, "p95_s": percentile(seconds, 95), "bytes": size}
    rows = [
        ("from address to usable page", f"{median:.2f} s", f"median; 95 %: {low:.2f} to {high:.2f} s"),
        ("slowest of twenty", f"{figures['p95_s']:.2f} s", "95th percentile"),
        ("all of the page's files", f"{size / 1000:.0f} KB", "uncompressed"),
    ]
    show("workbench", rows, figures)


def visit(browser: BrowserPage) -> float:
    """Seconds until the page is usable, with an empty cache."""
    page = browser.context.new_page()
    page.goto(browser.base, wait_until="commit")
    seconds = float(page.evaluate(READY)) / 1000
    browser.context.close()
    return seconds


if __name__ == "__main__":
    main()
