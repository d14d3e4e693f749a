"""The Workbench: from opening its address to a usable form with an empty cache, and a history of thousands of rows.

python -m benchmarks.server.workbench --visits 20 --rows 10000
"""

import argparse
import gzip
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from playwright.sync_api import Browser

from benchmarks.report import bootstrap, percentile, show
from server.storage.db.search import marked_words
from tests.support.browser import BrowserPage, chromium
from tests.support.server_process import ServerProcess

WEB = Path(__file__).parents[2] / "server" / "web"
SMALL = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2}
# the page sets this attribute when it is ready
READY = """() => new Promise(resolve => {
  const look = () => document.body?.dataset.ready ? resolve(performance.now()) : requestAnimationFrame(look);
  look();
})"""
# milliseconds of each frame while the history is scrolled through, a part of the window at a time
SCROLL = """async () => {
  const frames = [];
  let last = performance.now();
  const beat = () => new Promise(resolve => requestAnimationFrame(now => {
    frames.push(now - last);
    last = now;
    resolve();
  }));
  const end = () => document.querySelector("#history-end").hidden;
  for (let still = 0; still < 120;) {
    const before = scrollY;
    scrollBy(0, 180);
    await beat();
    still = scrollY === before ? still + 1 : 0;
    if (end() && scrollY === before) break;
  }
  return frames;
}"""
# milliseconds from the last letter to the tiles of the answer, and one more frame
SEARCH = """async (words) => {
  const field = document.querySelector("#history-search");
  const begun = performance.now();
  field.value = words;
  field.dispatchEvent(new Event("input"));
  const shown = () => [...document.querySelectorAll("#history-list .prompt")].map(each => each.textContent);
  for (;;) {
    await new Promise(requestAnimationFrame);
    const all = shown();
    if (all.length > 0 && all.every(prompt => prompt.includes(words))) return performance.now() - begun;
  }
}"""


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paddock") as folder, chromium() as browser:
        server = ServerProcess(Path(folder) / "data")
        server.start()
        try:
            seconds = [visit(BrowserPage(browser, server.url)) for _ in range(options.visits)]
            fill(server, options.rows)
            full = [visit(BrowserPage(browser, server.url)) for _ in range(options.visits)]
            frames, searches = scroll_and_search(browser, server)
        finally:
            server.stop()
            server.close()
    files = [path.read_bytes() for path in WEB.rglob("*") if path.is_file() and "swagger-ui" not in path.parts]
    size, sent = sum(map(len, files)), sum(len(gzip.compress(content)) for content in files)
    median, (low, high) = statistics.median(seconds), bootstrap(seconds)
    figures = {
        "visits": len(seconds),
        "rows": options.rows,
        "median_s": median,
        "p95_s": percentile(seconds, 95),
        "median_full_s": statistics.median(full),
        "frames": len(frames),
        "frame_p50_ms": statistics.median(frames),
        "frame_p99_ms": percentile(frames, 99),
        "frame_max_ms": max(frames),
        "frames_over_100_ms": sum(frame > 100 for frame in frames),
        "search_median_ms": statistics.median(searches),
        "search_max_ms": max(searches),
        "bytes": size,
        "bytes_sent": sent,
    }
    rows = [
        ("from address to usable page", f"{median:.2f} s", f"median; 95 %: {low:.2f} to {high:.2f} s"),
        ("slowest of twenty", f"{figures['p95_s']:.2f} s", "95th percentile"),
        ("the same with a full history", f"{figures['median_full_s']:.2f} s", f"median; {options.rows:,} rows"),
        ("a frame while scrolling", f"{figures['frame_p50_ms']:.0f} ms", f"median of {len(frames):,}"),
        ("", f"{figures['frame_p99_ms']:.0f} ms", f"99th percentile; longest {max(frames):.0f} ms"),
        ("frames over 100 ms", str(figures["frames_over_100_ms"]), "goal: none"),
        (
            "from the last letter to the answer",
            f"{figures['search_median_ms']:.0f} ms",
            f"longest {max(searches):.0f} ms",
        ),
        ("all of the page's files", f"{size / 1000:.0f} KB", f"{sent / 1000:.0f} KB compressed, as they are sent"),
    ]
    show("workbench", rows, figures)


def visit(browser: BrowserPage) -> float:
    """Seconds until the page is usable, with an empty cache."""
    page = browser.context.new_page()
    page.goto(browser.base, wait_until="commit")
    seconds = float(page.evaluate(READY)) / 1000
    browser.context.close()
    return seconds


def fill(server: ServerProcess, rows: int) -> None:
    """Copy one finished generation, whose video and thumbnail all copies show, an hour apart."""
    server.wait_for(server.enqueue(prompt="number 0", **SMALL), "succeeded")
    with closing(sqlite3.connect(server.data_dir / "paddock.db")) as records, records:
        records.row_factory = sqlite3.Row
        own = dict(records.execute("SELECT * FROM generations").fetchone())
        del own["seq"]
        now = time.time()
        parameters = own.pop("parameters")
        for number in range(rows, 0, -1):
            copy = {
                **own,
                "id": f"00000000-0000-4000-8000-{number:012d}",
                "parameters": parameters.replace("number 0", f"a duck by lake {number}"),
                "enqueued_at": now - number * 3600,
            }
            names = ", ".join(copy)
            values = ", ".join(f":{name}" for name in copy)
            made = records.execute(f"INSERT INTO generations ({names}) VALUES ({values})", copy)  # noqa: S608
            words = {"seq": made.lastrowid, "words": " ".join(marked_words(f"a duck by lake {number}", ""))}
            records.execute("INSERT INTO prompt_words (rowid, words) VALUES (:seq, :words)", words)


def scroll_and_search(browser: Browser, server: ServerProcess) -> tuple[list[float], list[float]]:
    """Milliseconds of frames while all rows are scrolled through, and of searches."""
    page = BrowserPage(browser, server.url).open("/#history")
    page.wait_for_selector("#history-list .tile")
    frames = [float(each) for each in page.evaluate(SCROLL)]
    page.evaluate("scrollTo(0, 0)")
    searches = [float(page.evaluate(SEARCH, f"lake {number}")) for number in range(4200, 4220)]
    return frames, searches


if __name__ == "__main__":
    main()
